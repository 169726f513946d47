//! Manifests, by tag and by digest.

use std::num::NonZeroUsize;

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use lru::LruCache;
use mirror::{Resolved, UpstreamError, UpstreamHead, UpstreamManifest, UpstreamRepository};
use oci::{Digest, MAX_MANIFEST_SIZE, MediaType, Origin, Reference, Tag};
use parking_lot::Mutex;

use crate::encoding;
use crate::fault::protocol;
use crate::registries::{Asked, Registries};

const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";
/// The most digests whose tag is remembered.
const MAX_TAGS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// The tag through which a digest became known: some registries serve a manifest by its tag only (moby/moby#41687).
pub(crate) struct Tags(Mutex<LruCache<(Origin, Digest), Tag>>);

impl Tags {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(MAX_TAGS)))
    }

    fn put(&self, repository: &UpstreamRepository, digest: &Digest, tag: &Tag) {
        // Nothing that a client's own credentials open is remembered.
        if repository.credentials.is_none() {
            let key = (repository.origin.clone(), digest.clone());
            self.0.lock().put(key, tag.clone());
        }
    }

    fn get(&self, repository: &UpstreamRepository, digest: &Digest) -> Option<Tag> {
        let key = (repository.origin.clone(), digest.clone());
        self.0.lock().get(&key).cloned()
    }
}

impl Registries {
    pub(crate) async fn resolve_tag(
        &self,
        repository: &UpstreamRepository,
        tag: &Tag,
    ) -> Result<Resolved, UpstreamError> {
        let reference = Reference::Tag(tag.clone());
        let resolved = match self.head(repository, &reference).await? {
            Some(digest) => Resolved {
                digest,
                manifest: None,
            },
            None => {
                let manifest = self.get(repository, &reference).await?;
                Resolved {
                    digest: manifest.digest.clone(),
                    manifest: Some(manifest),
                }
            }
        };
        self.tags.put(repository, &resolved.digest, tag);
        Ok(resolved)
    }

    pub(crate) async fn manifest_by_digest(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
    ) -> Result<UpstreamManifest, UpstreamError> {
        let reference = Reference::Digest(digest.clone());
        let error = match self.get(repository, &reference).await {
            Err(
                error @ (UpstreamError::NotFound(_)
                | UpstreamError::Denied { .. }
                | UpstreamError::Protocol(..)),
            ) => error,
            answer => return answer,
        };
        let Some(tag) = self.tags.get(repository, digest) else {
            return Err(error);
        };
        tracing::debug!(%digest, %tag, %error, "asking for a manifest by its tag");
        match self.get(repository, &Reference::Tag(tag)).await {
            Ok(manifest) if manifest.digest == *digest => Ok(manifest),
            // The first cause is the one that matters.
            _ => Err(error),
        }
    }

    /// The result of a `HEAD`, without a fallback.
    pub(crate) async fn head_of_manifest(
        &self,
        repository: &UpstreamRepository,
        reference: &Reference,
    ) -> Result<UpstreamHead, UpstreamError> {
        let origin = &repository.origin;
        let asked = self
            .ask_manifest(repository, Method::HEAD, reference)
            .await?;
        let asked = asked.check(origin)?;
        let named = named_digest(asked.headers());
        let digest = match (reference, named) {
            (Reference::Digest(digest), Some(named)) if named != *digest => {
                let text = format!("{named} for {digest}");
                return Err(protocol(origin, &text));
            }
            (Reference::Digest(digest), _) => Some(digest.clone()),
            (Reference::Tag(_), named) => named,
        };
        let text = |name| asked.headers().get(name)?.to_str().ok();
        Ok(UpstreamHead {
            digest,
            size: text(CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            media_type: text(CONTENT_TYPE).and_then(MediaType::new),
            visibility: asked.granted.visibility,
        })
    }

    /// The digest of a tag, by `HEAD`. `None`: that is refused, or answered without a usable digest. `GET` then shows
    /// the cause, if there is one.
    async fn head(
        &self,
        repository: &UpstreamRepository,
        reference: &Reference,
    ) -> Result<Option<Digest>, UpstreamError> {
        let asked = match self.ask_manifest(repository, Method::HEAD, reference).await {
            Err(UpstreamError::Protocol(..)) => return Ok(None),
            asked => asked?,
        };
        match asked.status() {
            StatusCode::TOO_MANY_REQUESTS => {
                asked.check(&repository.origin)?;
                Ok(None)
            }
            status if status.is_success() => Ok(named_digest(asked.headers())),
            _ => Ok(None),
        }
    }

    async fn get(
        &self,
        repository: &UpstreamRepository,
        reference: &Reference,
    ) -> Result<UpstreamManifest, UpstreamError> {
        let origin = &repository.origin;
        let asked = self
            .ask_manifest(repository, Method::GET, reference)
            .await?;
        let asked = asked.check(origin)?;
        if asked.status() != StatusCode::OK {
            return Err(protocol(origin, &format!("{} to a GET", asked.status())));
        }
        let named = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => named_digest(asked.headers()),
        };
        let media_type = asked.headers().get(CONTENT_TYPE);
        let media_type = media_type.and_then(|v| MediaType::new(v.to_str().ok()?));
        let visibility = asked.granted.visibility;
        let body = asked.granted.answer.response;
        let body = self.caller.read(origin, body, MAX_MANIFEST_SIZE).await?;
        let (bytes, digest) = match named {
            Some(digest) if digest.verifies(&body) => (body, digest),
            Some(digest) => {
                let decoded = encoding::decoded(&body, MAX_MANIFEST_SIZE);
                let decoded = decoded.filter(|bytes| digest.verifies(bytes));
                let text = format!("a manifest that is not {digest}");
                (decoded.ok_or_else(|| protocol(origin, &text))?, digest)
            }
            None => {
                let bytes = encoding::document(body, MAX_MANIFEST_SIZE);
                let digest = Digest::sha256(&bytes);
                (bytes, digest)
            }
        };
        Ok(UpstreamManifest {
            bytes,
            digest,
            media_type,
            visibility,
        })
    }

    async fn ask_manifest(
        &self,
        repository: &UpstreamRepository,
        method: Method,
        reference: &Reference,
    ) -> Result<Asked, UpstreamError> {
        let accept = HeaderValue::from_static(MediaType::ACCEPT);
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let path = format!("manifests/{reference}");
        self.ask(repository, method, (&path, ""), headers).await
    }
}

/// The digest of the manifest that an answer names. An empty or ill-formed one counts as absent.
fn named_digest(headers: &HeaderMap) -> Option<Digest> {
    let value = headers.get(DOCKER_CONTENT_DIGEST)?;
    value.to_str().ok()?.trim().parse().ok()
}
