//! The registry of a test.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream;
use oci::{MediaType, Ranges, Tag};

use super::tests::target;
use super::*;
use crate::{List, Resolved, UpstreamBlob, UpstreamError, UpstreamManifest, UpstreamPage};

/// The bytes of a blob that it sends at a time.
const PIECE: usize = 64 * 1024;

/// The behaviour of a test's registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    /// Gives everything to all clients.
    Give,
    /// Gives everything to this node, because of its settings in hosts.toml.
    GiveToThisNode,
    /// Gives everything only to clients with credentials.
    Refuse,
    Lack,
    LimitRate,
    Fail,
    Hang,
    CannotBeReached,
    /// Gives everything to all clients, but breaks in the middle of blobs.
    Break,
    /// It is another mirror, which checks upstream too.
    IsMirror,
}

pub(crate) struct FakeUpstream {
    pub(crate) mirror: Mutex<Option<UpstreamCheck>>,
    pub(crate) does: Mutex<HashMap<String, Does>>,
    /// The target of its tags.
    pub(crate) tag: Mutex<Digest>,
    pub(crate) blobs: Mutex<HashMap<Digest, Bytes>>,
    pub(crate) asked: AtomicUsize,
}

impl FakeUpstream {
    /// A registry that gives everything to all clients, with this target of its tags.
    pub(crate) fn new(tag: Digest) -> Self {
        Self {
            mirror: Mutex::default(),
            does: Mutex::default(),
            tag: Mutex::new(tag),
            blobs: Mutex::default(),
            asked: AtomicUsize::new(0),
        }
    }

    fn knows_this_node(&self, repository: &UpstreamRepository) -> bool {
        let name = repository.origin.repository.as_str();
        self.does.lock().get(name) == Some(&Does::GiveToThisNode)
    }

    async fn answer(&self, repository: &UpstreamRepository) -> Result<(), UpstreamError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let origin = repository.origin.clone();
        let does = self.does.lock().get(origin.repository.as_str()).cloned();
        match does.unwrap_or(Does::Give) {
            Does::Refuse if repository.credentials.is_some() => Ok(()),
            Does::Give | Does::GiveToThisNode | Does::Break => Ok(()),
            Does::Refuse => Err(UpstreamError::Denied {
                origin,
                challenges: Vec::new(),
            }),
            Does::Lack => Err(UpstreamError::NotFound(origin)),
            Does::LimitRate => Err(UpstreamError::TooManyRequests {
                origin,
                retry_after: None,
            }),
            Does::Fail => Err(UpstreamError::Failed(origin, "it answers 500".into())),
            Does::Hang => std::future::pending().await,
            Does::IsMirror => {
                let mirror = self.mirror.lock().clone().expect("one");
                let tag = Reference::Tag("v".parse().expect("a tag"));
                let mut target = target(origin.repository.as_str(), tag, Kind::Manifest);
                let told = mirror.admit(&mut target, None, Asker::Anybody).await;
                told.map(drop).map_err(|_| UpstreamError::NotFound(origin))
            }
            Does::CannotBeReached => Err(UpstreamError::Unreachable(origin, "refused".into())),
        }
    }
}

#[async_trait]
impl Upstream for FakeUpstream {
    async fn resolve(&self, _: &UpstreamRepository, _: &Tag) -> Result<Resolved, UpstreamError> {
        unreachable!("it may cost a pull")
    }

    async fn head(
        &self,
        repository: &UpstreamRepository,
        reference: &Reference,
    ) -> Result<UpstreamHead, UpstreamError> {
        self.answer(repository).await?;
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(_) => self.tag.lock().clone(),
        };
        Ok(UpstreamHead {
            digest: Some(digest),
            size: Some(7),
            media_type: MediaType::new("application/vnd.oci.image.manifest.v1+json"),
            visibility: match repository.credentials {
                None if !self.knows_this_node(repository) => Visibility::Shared,
                _ => Visibility::Private,
            },
        })
    }

    async fn manifest(
        &self,
        _: &UpstreamRepository,
        _: &Digest,
    ) -> Result<UpstreamManifest, UpstreamError> {
        unreachable!("it costs a pull")
    }

    async fn blob_size(
        &self,
        _: &UpstreamRepository,
        _: &Digest,
    ) -> Result<Option<u64>, UpstreamError> {
        unreachable!("a size proves nothing")
    }

    async fn blob(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
        ranges: Option<&Ranges>,
    ) -> Result<UpstreamBlob, UpstreamError> {
        self.answer(repository).await?;
        let blob = self.blobs.lock().get(digest).cloned();
        let blob = blob.ok_or_else(|| UpstreamError::NotFound(repository.origin.clone()))?;
        let size = blob.len() as u64;
        let range = match ranges {
            Some(ranges) => ranges.resolve(size).expect("within it").swap_remove(0),
            None => 0..size,
        };
        let breaks =
            self.does.lock().get(repository.origin.repository.as_str()) == Some(&Does::Break);
        let end = if breaks {
            (range.start + range.end) / 2
        } else {
            range.end
        };
        let bytes = blob.slice(range.start as usize..end as usize);
        let pieces = (0..bytes.len()).step_by(PIECE);
        let pieces = pieces.map(move |at| Ok(bytes.slice(at..bytes.len().min(at + PIECE))));
        let error = UpstreamError::Failed(repository.origin.clone(), "it breaks".into());
        let pieces = pieces.chain(breaks.then_some(Err(error)));
        Ok(UpstreamBlob {
            size: Some(size),
            offset: range.start,
            visibility: Visibility::Shared,
            body: Box::pin(stream::iter(pieces)),
        })
    }

    async fn page(
        &self,
        _: &UpstreamRepository,
        _: &List,
        _: &str,
    ) -> Result<UpstreamPage, UpstreamError> {
        unreachable!("no list is asked for")
    }
}
