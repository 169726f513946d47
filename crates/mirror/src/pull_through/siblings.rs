//! Objects that belong to an image but are not in its manifests: signatures, attestations, SBOMs. Registries find them
//! by their subject (distribution-spec, "Listing Referrers"), or by a tag that follows from the image's digest:
//! cosign's `sha256-<hex>.sig`, `.att` and `.sbom`, and `sha256-<hex>` for a list of referrers (the "referrers tag
//! schema").
//!
//! They are fetched in the background for an image that a client requests, so that they are here when upstream is
//! unreachable. Each is tried once. Too large or too many ones are fetched only on request.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use oci::{Child, Digest, Manifest, Origin, Reference, Role, Tag, TagName};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::client::Client;
use super::fill::Fill;
use super::sources::{Nodes, Sources};
use super::state::{BEGIN_LIMIT, PullThroughStep};
use crate::found::{Found, Payload};
use crate::own_pull::OwnPull;
use crate::request::{Kind, Target};
use crate::{
    Begun, List, UpstreamError, UpstreamManifest, UpstreamPage, UpstreamRepository, Visibility,
    local,
};

/// The suffixes of cosign's tags; empty for a list of referrers, which is looked for last.
const SUFFIXES: [&str; 4] = [".sig", ".att", ".sbom", ""];
/// The most manifests kept for one image.
const MAX_MANIFESTS: usize = 32;
/// The most bytes kept for one image.
const MAX_BYTES: u64 = 32 << 20;
/// The limit for everything that is fetched for one image.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// The most images for which siblings are fetched at the same time. For further ones they are not, until the image is
/// requested again.
const MAX_CONCURRENT: usize = 4;
/// The most images that are not checked again, and for how long.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// The images whose siblings were looked for.
pub struct Siblings {
    looked: Mutex<LruCache<(Origin, Digest), Instant>>,
    permits: Arc<Semaphore>,
}

impl Default for Siblings {
    fn default() -> Self {
        Self {
            looked: Mutex::new(LruCache::new(MAX_REMEMBERED)),
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT)),
        }
    }
}

impl Siblings {
    /// Whether to look for an image's siblings now. `children` are part of it and have none of their own.
    fn begin(
        &self,
        origin: &Origin,
        digest: &Digest,
        children: &[Child],
    ) -> Option<OwnedSemaphorePermit> {
        let mut looked = self.looked.lock();
        let key = |digest: &Digest| (origin.clone(), digest.clone());
        let last = looked.get(&key(digest));
        if last.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
            return None;
        }
        let permit = self.permits.clone().try_acquire_owned().ok()?;
        let manifests = children.iter().filter(|child| child.role == Role::Manifest);
        for part in manifests.map(|child| &child.digest).chain([digest]) {
            looked.put(key(part), Instant::now());
        }
        Some(permit)
    }
}

/// The remaining limits for one image.
struct Allowance {
    manifests: usize,
    bytes: u64,
}

impl Allowance {
    fn take_manifest(&mut self) -> bool {
        self.manifests = match self.manifests.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }

    fn take_bytes(&mut self, bytes: u64) -> bool {
        self.bytes = match self.bytes.checked_sub(bytes) {
            Some(left) => left,
            None => return false,
        };
        true
    }
}

impl PullThroughStep {
    /// Fetches the siblings of an image that a client gets, in the background. Does nothing for a client with its own
    /// credentials: its content is not kept.
    pub(super) fn keep_siblings(self: &Arc<Self>, target: &Target, found: &Found, client: &Client) {
        let Some(origin) = target.origin.as_ref() else {
            return;
        };
        if client.credentials.is_some() || is_sibling(&target.reference) {
            return;
        }
        let children = match &found.payload {
            Payload::Bytes(bytes) => children(bytes),
            _ => Vec::new(),
        };
        let Some(permit) = self.siblings.begin(origin, &found.digest, &children) else {
            return;
        };
        let step = self.clone();
        let (target, digest) = (target.clone(), found.digest.clone());
        self.tasks.spawn(async move {
            let keeping = SiblingFetch::new(&step, &target).keep_all_of(&digest);
            if timeout(TIME_LIMIT, keeping).await.is_err() {
                tracing::debug!(%digest, "not all that belongs to the image was fetched in time");
            }
            drop(permit);
        });
    }

    /// The list of a manifest's referrers, as it was when the image was fetched.
    pub(super) async fn kept_referrers(
        &self,
        origin: &Origin,
        list: &List,
    ) -> Option<UpstreamPage> {
        let List::Referrers(subject) = list else {
            return None;
        };
        let name = sibling_tag(origin, subject, "")?;
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || {
            let digest = store.catalog().resolve(&name)?;
            local::manifest_bytes(&*store, &digest)
        });
        let bytes = read.await.ok()??;
        let media_type = Manifest::parse(&bytes).ok()?.media_type;
        Some(UpstreamPage {
            bytes,
            content_type: http::HeaderValue::from_str(media_type.as_str()).ok(),
            next: None,
            filters_applied: None,
        })
    }
}

/// Fetches the siblings of one image.
struct SiblingFetch<'a> {
    step: &'a Arc<PullThroughStep>,
    target: Target,
    origin: Option<Origin>,
    left: Allowance,
}

impl<'a> SiblingFetch<'a> {
    fn new(step: &'a Arc<PullThroughStep>, target: &Target) -> Self {
        let target = Target {
            ranges: None,
            head_only: false,
            // Not part of the client's pull.
            pull: OwnPull::default(),
            follower: None,
            ..target.clone()
        };
        Self {
            step,
            origin: target.origin.clone(),
            target,
            left: Allowance {
                manifests: MAX_MANIFESTS,
                bytes: MAX_BYTES,
            },
        }
    }

    async fn keep_all_of(mut self, subject: &Digest) -> Option<()> {
        let origin = self.origin.clone()?;
        let repository = UpstreamRepository::anonymous(&origin);
        let mut has_list = false;
        for suffix in SUFFIXES {
            let name = sibling_tag(&origin, subject, suffix)?;
            let resolved = asked(self.step.upstream.resolve(&repository, &name.tag)).await;
            let Some(resolved) = resolved else { continue };
            if self
                .keep_manifest(&resolved.digest, resolved.manifest, true)
                .await
            {
                self.step.intake.tag(&name, &resolved.digest);
                has_list |= suffix.is_empty();
            }
        }
        let list = List::Referrers(subject.clone());
        let page = asked(self.step.upstream.page(&repository, &list, "")).await?;
        let referrers = children(&page.bytes);
        // If the registry also has a list by tag, it is the same one.
        if referrers.is_empty() || has_list {
            return None;
        }
        let digest = Digest::sha256(&page.bytes);
        let manifest = UpstreamManifest {
            bytes: page.bytes,
            digest: digest.clone(),
            media_type: None,
            // It is unknown whether it needed credentials, so it is for this node's own clients.
            visibility: Visibility::Private,
        };
        if self.keep_manifest(&digest, Some(manifest), true).await {
            let name = sibling_tag(&origin, subject, "")?;
            self.step.intake.tag(&name, &digest);
        }
        None
    }

    /// Keeps a manifest and its objects; of an index also its manifests and their objects. Returns whether the manifest
    /// itself is here now.
    async fn keep_manifest(
        &mut self,
        digest: &Digest,
        manifest: Option<UpstreamManifest>,
        follows_manifests: bool,
    ) -> bool {
        if !self.left.take_manifest() {
            return false;
        }
        let Some(origin) = self.origin.clone() else {
            return false;
        };
        let repository = UpstreamRepository::anonymous(&origin);
        let manifest = match manifest {
            Some(manifest) => manifest,
            None => match asked(self.step.upstream.manifest(&repository, digest)).await {
                Some(manifest) => manifest,
                None => return false,
            },
        };
        if !self.left.take_bytes(manifest.bytes.len() as u64) {
            return false;
        }
        let children = children(&manifest.bytes);
        let UpstreamManifest {
            bytes, visibility, ..
        } = manifest;
        let (sink, _) = self.step.begin_manifest(digest).await.unzip();
        self.step
            .keep(sink, Some(origin), digest, bytes, visibility)
            .await;
        for child in children {
            match child.role {
                Role::Manifest if follows_manifests => {
                    // One level: nested lists are useless.
                    Box::pin(self.keep_manifest(&child.digest, None, false)).await;
                }
                Role::Manifest => {}
                Role::Config | Role::Layer => self.keep_blob(&child).await,
            }
        }
        true
    }

    async fn keep_blob(&mut self, child: &Child) {
        let Some(size) = child.size.filter(|size| self.left.take_bytes(*size)) else {
            return;
        };
        let digest = &child.digest;
        let Ok(Begun::New(mut sink, _)) = self.step.begin(digest).await else {
            return;
        };
        // It accepts no more than this, whatever is sent.
        if let Err(error) = sink.expect(size).await {
            return self.step.not_kept(digest, &error);
        }
        let target = Target {
            kind: Kind::Blob,
            reference: Reference::Digest(digest.clone()),
            ..self.target.clone()
        };
        let client = Client::of_this_node();
        let sources = Sources::new(self.step, &target, digest, &client, Nodes::AsPeers);
        let sources = Arc::new(sources);
        let Ok(opened) = sources.open(None).await else {
            return;
        };
        let origin = self.origin.as_ref();
        let fill = Fill::new(self.step, digest, origin, sink, sources, opened);
        fill.run().await;
    }
}

/// Upstream's answer to a background question. It does not change the state of the registry for this node's clients.
async fn asked<T>(answer: impl Future<Output = Result<T, UpstreamError>>) -> Option<T> {
    timeout(BEGIN_LIMIT, answer).await.ok()?.ok()
}

fn children(bytes: &Bytes) -> Vec<Child> {
    Manifest::parse(bytes).map_or_else(|_| Vec::new(), |manifest| manifest.children)
}

/// `sha256-<hex>` with a suffix.
fn sibling_tag(origin: &Origin, subject: &Digest, suffix: &str) -> Option<TagName> {
    let text = format!("{}-{}{suffix}", subject.algorithm(), subject.encoded());
    Some(TagName {
        origin: origin.clone(),
        tag: text.parse::<Tag>().ok()?,
    })
}

/// Whether a tag has the form of a sibling's tag.
fn is_sibling(reference: &Reference) -> bool {
    let Reference::Tag(tag) = reference else {
        return false;
    };
    let digest = tag.as_str().split('.').next().unwrap_or_default();
    digest.replacen('-', ":", 1).parse::<Digest>().is_ok()
}
