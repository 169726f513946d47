//! A layer that this node leads, fetched from upstream by this mirror and passed on to containerd.
//!
//! From 2.1 on, containerd moves a layer that its mirror does not have to the end of its queue. So a lead begins only
//! when all other layers have been asked for, and these wait for leads of other nodes, which wait as well. A mirror that
//! fetches the layer itself leads at once. It does so only if upstream gives the repository to an anonymous client: it
//! has no credentials of the pull. Otherwise, and if that fails, containerd pulls the layer as it would without a mirror.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use lru::LruCache;
use oci::{ByteRange, Digest, Origin, Ranges, Registry};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::body::send_memory::{MemoryPermit, SendMemory, Share};
use crate::flight::Flight;
use crate::found::{Found, Payload, Source};
use crate::metrics::Metrics;
use crate::object_stream::{BodyError, ObjectStream, Pieces};
use crate::open_range::all_from;
use crate::request::{Kind, Target};
use crate::upstream_check::UpstreamCheck;
use crate::{Store, UpstreamBlob, UpstreamError, Visibility};

/// The limit until upstream's answer. Then containerd asks upstream itself, so this is lost once for each registry in
/// [`AVOIDED_FOR`].
const ANSWER_LIMIT: Duration = Duration::from_millis(1_500);
/// The time for which this mirror fetches nothing from a registry that has not answered, or not as expected.
const AVOIDED_FOR: Duration = Duration::from_secs(10 * 60);
/// The most registries to remember.
const MAX_REGISTRIES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// The bytes of memory charged for a layer: the read buffer of the connection, and the next piece.
const BUFFER_BYTES: u64 = 128 * 1024;

/// The step.
pub struct LeadThrough {
    check: UpstreamCheck,
    store: Arc<dyn Store>,
    flight: Arc<Flight>,
    memory: SendMemory,
    metrics: Arc<Metrics>,
    /// The registries from which nothing is fetched, and since when.
    avoided: Mutex<LruCache<Registry, Instant>>,
}

impl LeadThrough {
    pub fn new(
        check: UpstreamCheck,
        store: Arc<dyn Store>,
        flight: Arc<Flight>,
        memory: SendMemory,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            check,
            store,
            flight,
            memory,
            metrics,
            avoided: Mutex::new(LruCache::new(MAX_REGISTRIES)),
        }
    }

    /// Whether this mirror can fetch the rest of an object that its client requests, as far as is known.
    pub fn can_fetch(&self, target: &Target) -> bool {
        let ranges = target.ranges.as_ref();
        // A range that begins at 0 is one of several parallel ones. By these, containerd may be faster than one stream.
        let is_one_stream = ranges.is_none() || all_from(ranges).is_some_and(|offset| offset > 0);
        target.kind == Kind::Blob
            && target.fills_ingest()
            && is_one_stream
            && self.store.downloads_share_slots()
            && target.origin.as_ref().is_some_and(|origin| {
                !self.is_avoided(&origin.registry) && self.check.is_public(origin)
            })
    }

    fn is_avoided(&self, registry: &Registry) -> bool {
        let mut avoided = self.avoided.lock();
        let since = avoided.get(registry);
        since.is_some_and(|since| since.elapsed() < AVOIDED_FOR)
    }

    fn avoid(&self, registry: &Registry, digest: &Digest, error: &str) {
        tracing::info!(%registry, %digest, error, "cannot fetch a layer for containerd, which pulls it");
        self.avoided.lock().put(registry.clone(), Instant::now());
    }

    /// Fetches the rest of an object from upstream. `None`: the client must pull it.
    pub async fn find(self: &Arc<Self>, target: &Target) -> Option<Found> {
        let began = Instant::now();
        let found = self.open_found(target).await;
        if let (None, Some(digest)) = (&found, target.digest()) {
            self.flight.leave_to_client(digest);
            if let Some(attempts) = &target.pull.attempts {
                attempts.budget().charge(began.elapsed());
            }
        }
        found
    }

    /// `None`: there is no memory for it, or upstream does not give it.
    async fn open_found(self: &Arc<Self>, target: &Target) -> Option<Found> {
        let (origin, digest) = (target.origin.as_ref()?, target.digest()?);
        let ranges = target.ranges.as_ref();
        let permit = self.memory.share(target.caller).keep(BUFFER_BYTES).await?;
        let opening = self.open(origin, digest, ranges, all_from(ranges)?);
        let error = match timeout(ANSWER_LIMIT, opening).await {
            Ok(Ok((blob, size))) => {
                self.metrics.flights_layers_fetched.inc();
                let stream = LeadStream {
                    step: self.clone(),
                    origin: origin.clone(),
                    digest: digest.clone(),
                    opened: Some(blob),
                    permit: Arc::new(permit),
                };
                let payload = Payload::stream(stream);
                return Some(Found::blob(digest, Some(size), payload, Source::Upstream));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ANSWER_LIMIT:?}"),
        };
        self.avoid(&origin.registry, digest, &error);
        None
    }

    /// Opens an object, or the first of `ranges`, which begins at `offset`. Returns the size of the whole as well.
    ///
    /// # Errors
    /// Upstream does not give it to an anonymous client, or not as requested.
    async fn open(
        &self,
        origin: &Origin,
        digest: &Digest,
        ranges: Option<&Ranges>,
        offset: u64,
    ) -> Result<(UpstreamBlob, u64), UpstreamError> {
        let unexpected = |what: &str| UpstreamError::Protocol(origin.clone(), what.into());
        let blob = self.check.open_blob(origin, digest, ranges).await?;
        let size = blob.size;
        let size = size.ok_or_else(|| unexpected("a layer without its size"))?;
        if blob.visibility != Visibility::Shared {
            return Err(unexpected("a public layer only to this node's credentials"));
        }
        if blob.offset != offset {
            return Err(unexpected("another part than was asked for"));
        }
        Ok((blob, size))
    }
}

/// An object that upstream sends.
struct LeadStream {
    step: Arc<LeadThrough>,
    origin: Origin,
    digest: Digest,
    /// The open answer, for a reader that begins at its offset.
    opened: Option<UpstreamBlob>,
    permit: Arc<MemoryPermit>,
}

impl LeadStream {
    /// The next bytes of the range, which followers get as well. `None`: the end of the range.
    async fn next(&mut self, range: &ByteRange) -> Result<Option<Bytes>, UpstreamError> {
        if range.is_empty() {
            return Ok(None);
        }
        let (step, digest, offset) = (&self.step, &self.digest, range.start);
        let opened = self.opened.take();
        let mut blob = match opened.filter(|blob| blob.offset == offset) {
            Some(blob) => blob,
            None => {
                let ranges = Ranges::of(range);
                let opening = step.open(&self.origin, digest, Some(&ranges), offset);
                opening.await?.0
            }
        };
        let mut bytes = blob.body.next().await.transpose()?.ok_or_else(|| {
            let text = format!("the layer ends at {offset} bytes");
            UpstreamError::Protocol(self.origin.clone(), text)
        })?;
        bytes.truncate(usize::try_from(range.end - offset).unwrap_or(usize::MAX));
        step.flight.receive(digest, offset, &bytes);
        blob.offset += bytes.len() as u64;
        self.opened = Some(blob);
        Ok(Some(bytes))
    }

    fn failed(&self, error: UpstreamError) -> BodyError {
        let registry = &self.origin.registry;
        self.step.avoid(registry, &self.digest, &error.to_string());
        BodyError::of_stream(error)
    }
}

impl ObjectStream for LeadStream {
    fn stream(self: Box<Self>, range: ByteRange, _: Arc<Share>) -> Pieces {
        let pieces = stream::try_unfold((self, range), |(mut lead, range)| async move {
            let next = lead.next(&range).await;
            let next = next.map_err(|error| lead.failed(error))?;
            Ok(next.map(|bytes| {
                let rest = range.start + bytes.len() as u64..range.end;
                (bytes, (lead, rest))
            }))
        });
        pieces.boxed()
    }

    fn again(&self) -> Box<dyn ObjectStream> {
        Box::new(Self {
            step: self.step.clone(),
            origin: self.origin.clone(),
            digest: self.digest.clone(),
            opened: None,
            permit: self.permit.clone(),
        })
    }
}
