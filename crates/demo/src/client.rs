//! Pulls an image from the node's mirror as a container engine does: the tag's digest, the manifest, then config and
//! layers three at a time, each verified as it arrives.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use oci::{
    Child, Digest, Hasher, MAX_MANIFEST_SIZE, Manifest, ManifestError, MediaType, Name, Role,
    architecture, image_for_this_machine,
};
use serde_json::Value;
use tokio::time::timeout;

/// The concurrent downloads, as containerd's default.
const PARALLEL: usize = 3;
/// The limit for the head of an answer, which includes the mirror's own limits.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);
/// The limit between two pieces of a body.
const STALL_LIMIT: Duration = Duration::from_secs(90);
/// The most bytes of an error's body that are shown.
const MAX_REASON: usize = 4096;

/// An observer of a pull.
pub(crate) trait Watch: Send + Sync {
    /// Reports the size of an object in bytes, as soon as it is known.
    fn size(&self, bytes: u64);
    /// Reports that this many more bytes have come and been hashed.
    fn more(&self, bytes: u64);
}

/// An image that was pulled and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pulled {
    /// The digest of the name.
    pub(crate) digest: Digest,
    /// All of its objects, with their sizes in bytes.
    pub(crate) objects: Vec<(Digest, u64)>,
    /// The bytes of all objects.
    pub(crate) bytes: u64,
    /// The bytes of objects that are not layers.
    pub(crate) metadata: u64,
}

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("{what}: no answer within {ANSWER_LIMIT:?}")]
    NoAnswer { what: String },
    #[error("{what}: cannot ask the node")]
    Request {
        what: String,
        source: hyper_util::client::legacy::Error,
    },
    #[error("{what}: the node answered {status}: {reason}")]
    Status {
        what: String,
        status: StatusCode,
        reason: String,
    },
    #[error("{what}: the node named no digest")]
    NoDigest { what: String },
    #[error("{what}: the body broke after {received} bytes")]
    Body {
        what: String,
        received: u64,
        source: hyper::Error,
    },
    #[error("{what}: no byte for {STALL_LIMIT:?} after {received}")]
    Stalled { what: String, received: u64 },
    #[error("{what}: {received} bytes came and not {expected}")]
    Size {
        what: String,
        received: u64,
        expected: u64,
    },
    #[error("{what}: the bytes are not what the digest names")]
    Digest { what: String },
    #[error("{what}: not a manifest")]
    Manifest { what: String, source: ManifestError },
    #[error("{what}: has no image for linux/{}", architecture())]
    NoPlatform { what: String },
}

/// Pulls an image from the mirror at `registry`.
///
/// # Errors
/// An object did not come, or does not match its digest.
pub(crate) async fn pull(
    registry: SocketAddr,
    image: &Name,
    watch: Arc<dyn Watch>,
) -> Result<Pulled, PullError> {
    let client = Client {
        http: Http::builder(TokioExecutor::new()).build_http(),
        registry,
        image: image.clone(),
        watch,
    };
    let digest = client.resolve().await?;
    let (bytes, mut manifest) = client.manifest(&digest).await?;
    let mut metadata = bytes.len() as u64;
    let mut objects = vec![(digest.clone(), metadata)];
    if manifest.children.iter().any(|c| c.role == Role::Manifest) {
        let chosen = image_for_this_machine(&bytes)
            .ok_or_else(|| PullError::NoPlatform { what: text(image) })?;
        let (bytes, image_manifest) = client.manifest(&chosen).await?;
        objects.push((chosen, bytes.len() as u64));
        metadata += bytes.len() as u64;
        manifest = image_manifest;
    }
    let mut seen = BTreeSet::new();
    let mut children = manifest.children;
    children.retain(|child| seen.insert(child.digest.clone()));
    let size_of = |child: &Child| child.size.unwrap_or_default();
    let sizes = children.iter().map(size_of);
    let content = sizes.fold(0, u64::saturating_add);
    let total = content.saturating_add(metadata);
    client.watch.size(total);
    client.watch.more(metadata);
    let blobs: Vec<_> = children.iter().map(|child| client.blob(child)).collect();
    stream::iter(blobs)
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;
    let configs = children.iter().filter(|child| child.role == Role::Config);
    objects.extend(children.iter().map(|c| (c.digest.clone(), size_of(c))));
    Ok(Pulled {
        digest,
        bytes: total,
        metadata: metadata + configs.map(size_of).sum::<u64>(),
        objects,
    })
}

/// An image's name as people write it.
pub(crate) fn text(image: &Name) -> String {
    let tag = image
        .tag
        .as_ref()
        .map_or(String::new(), |t| format!(":{t}"));
    let digest = image.digest.as_ref();
    let digest = digest.map_or(String::new(), |d| format!("@{d}"));
    format!("{}{tag}{digest}", image.origin)
}

struct Client {
    http: Http<HttpConnector, Empty<Bytes>>,
    registry: SocketAddr,
    image: Name,
    watch: Arc<dyn Watch>,
}

impl Client {
    /// Resolves the image's name to a digest.
    async fn resolve(&self) -> Result<Digest, PullError> {
        let Name { tag, digest, .. } = &self.image;
        let reference = match (digest, tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_string(),
            (None, None) => "latest".into(),
        };
        let what = format!("manifest {reference}");
        let mut answer = self
            .ask(&Method::HEAD, "manifests", &reference, &what)
            .await;
        if let Err(PullError::Status { .. }) = answer {
            // The answer to a GET has a body with the reason.
            answer = self.ask(&Method::GET, "manifests", &reference, &what).await;
        }
        let answer = answer?;
        let named = answer.headers().get("docker-content-digest");
        let digest = named.and_then(|value| value.to_str().ok()?.parse().ok());
        digest.ok_or(PullError::NoDigest { what })
    }

    async fn manifest(&self, digest: &Digest) -> Result<(Bytes, Manifest), PullError> {
        let what = format!("manifest {digest}");
        let answer = self
            .ask(&Method::GET, "manifests", digest.as_str(), &what)
            .await?;
        let mut bytes = Vec::new();
        let take = |piece: &Bytes| bytes.extend_from_slice(piece);
        read(answer, digest, MAX_MANIFEST_SIZE, &what, take).await?;
        let manifest = Manifest::parse(&bytes);
        let manifest = manifest.map_err(|source| PullError::Manifest { what, source })?;
        Ok((bytes.into(), manifest))
    }

    async fn blob(&self, child: &Child) -> Result<(), PullError> {
        let what = format!("blob {}", child.digest);
        let answer = self
            .ask(&Method::GET, "blobs", child.digest.as_str(), &what)
            .await?;
        let watch = |piece: &Bytes| self.watch.more(piece.len() as u64);
        let limit = child.size.unwrap_or(u64::MAX);
        let received = read(answer, &child.digest, limit, &what, watch).await?;
        if let Some(expected) = child.size
            && received != expected
        {
            return Err(PullError::Size {
                what,
                received,
                expected,
            });
        }
        Ok(())
    }

    async fn ask(
        &self,
        method: &Method,
        kind: &str,
        reference: &str,
        what: &str,
    ) -> Result<Response<Incoming>, PullError> {
        let (node, origin) = (self.registry, &self.image.origin);
        let (repository, registry) = (&origin.repository, &origin.registry);
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method.clone();
        // These names contain nothing that must be escaped.
        let uri = format!("http://{node}/v2/{repository}/{kind}/{reference}?ns={registry}");
        *request.uri_mut() = uri.parse().unwrap_or_default();
        let accept = http::HeaderValue::from_static(MediaType::ACCEPT);
        request.headers_mut().insert(http::header::ACCEPT, accept);
        let what = || what.to_owned();
        let answer = timeout(ANSWER_LIMIT, self.http.request(request)).await;
        let answer = answer.map_err(|_| PullError::NoAnswer { what: what() })?;
        let answer = answer.map_err(|source| PullError::Request {
            what: what(),
            source,
        })?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_REASON);
        let reason = match timeout(ANSWER_LIMIT, body.collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        Err(PullError::Status {
            what: what(),
            status,
            reason: message(&reason),
        })
    }
}

/// Reads a body to its end and verifies it. Returns its size in bytes.
async fn read(
    answer: Response<Incoming>,
    digest: &Digest,
    limit: u64,
    what: &str,
    mut take: impl FnMut(&Bytes),
) -> Result<u64, PullError> {
    let what = || what.to_owned();
    let (mut body, mut hasher, mut received) = (answer.into_body(), Hasher::new(digest), 0);
    loop {
        let frame = match timeout(STALL_LIMIT, body.frame()).await {
            Err(_) => {
                return Err(PullError::Stalled {
                    what: what(),
                    received,
                });
            }
            Ok(None) => break,
            Ok(Some(Err(source))) => {
                return Err(PullError::Body {
                    what: what(),
                    received,
                    source,
                });
            }
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        received += piece.len() as u64;
        if received > limit {
            return Err(PullError::Size {
                what: what(),
                received,
                expected: limit,
            });
        }
        hasher.update(&piece);
        take(&piece);
    }
    if hasher.finish() != *digest {
        return Err(PullError::Digest { what: what() });
    }
    Ok(received)
}

/// The error in an answer's body (distribution-spec, "Error Codes"), as far as it is there.
fn message(body: &[u8]) -> String {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    match document["errors"][0]["message"].as_str() {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(body).into_owned(),
    }
}
