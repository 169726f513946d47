//! A layer that this node leads, fetched from upstream by this mirror and passed on to containerd.
//!
//! From 2.1 on, containerd moves a layer that its mirror does not have to the end of its queue. So a lead begins only
//! when all other layers have been asked for, and these wait for leads of other nodes, which wait as well. A mirror that
//! fetches the layer itself leads at once. It does so only if upstream gives the repository to an anonymous client: it
//! has no credentials of the pull. Otherwise, and if that fails, containerd pulls the layer as it would without a mirror.

mod avoided;
mod body;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use oci::{Digest, Origin, Ranges};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::activity::PullSource;
use crate::body::send_memory::{MemoryPermit, SendMemory};
use crate::flight::Flight;
use crate::found::{Found, Payload, Source};
use crate::metrics::Metrics;
use crate::open_range::all_from;
use crate::refusal::Refusal;
use crate::request::{Kind, Target};
use crate::upstream_bytes::UpstreamBytes;
use crate::upstream_check::UpstreamCheck;
use crate::{Store, UpstreamBlob, UpstreamError, Visibility};
use avoided::Avoided;
use body::{LeadStream, PeersThenUpstream};

/// The limit until upstream's answer. Then containerd asks upstream itself. A registry that is silent for this long is
/// avoided ([`Avoided`]).
const ANSWER_LIMIT: Duration = Duration::from_millis(1_500);
/// The same for a pull that may lose nothing more: what upstream usually takes. Also the limit for memory.
const SHORTEST_LIMIT: Duration = Duration::from_millis(250);
/// The bytes of memory charged for a layer: the largest read buffer of a connection, and the next piece.
const BUFFER_BYTES: u64 = 512 * 1024;

/// The step.
pub struct LeadThrough {
    check: UpstreamCheck,
    store: Arc<dyn Store>,
    flight: Arc<Flight>,
    memory: SendMemory,
    upstream_bytes: Arc<UpstreamBytes>,
    metrics: Arc<Metrics>,
    avoided: Avoided,
    /// The objects that are being fetched. Each is fetched once, however often a client asks.
    fetched: Arc<Mutex<HashSet<Digest>>>,
}

/// What a lead occupies.
type Permits = (FetchPermit, MemoryPermit);

/// The right to fetch an object, for as long as this lives.
struct FetchPermit {
    fetched: Arc<Mutex<HashSet<Digest>>>,
    digest: Digest,
}

impl Drop for FetchPermit {
    fn drop(&mut self) {
        self.fetched.lock().remove(&self.digest);
    }
}

impl LeadThrough {
    pub fn new(
        check: UpstreamCheck,
        store: Arc<dyn Store>,
        flight: Arc<Flight>,
        memory: SendMemory,
        (upstream_bytes, metrics): (Arc<UpstreamBytes>, Arc<Metrics>),
    ) -> Self {
        Self {
            check,
            store,
            flight,
            memory,
            upstream_bytes,
            metrics,
            avoided: Avoided::default(),
            fetched: Arc::default(),
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
            && self.gives(target.origin.as_ref())
            && target
                .digest()
                .is_some_and(|digest| !self.fetched.lock().contains(digest))
    }

    /// `None`: the object is being fetched already.
    fn permit(&self, digest: &Digest) -> Option<FetchPermit> {
        let is_first = self.fetched.lock().insert(digest.clone());
        is_first.then(|| FetchPermit {
            fetched: self.fetched.clone(),
            digest: digest.clone(),
        })
    }

    /// Whether upstream gives layers of a repository to this mirror, as far as is known.
    fn gives(&self, origin: Option<&Origin>) -> bool {
        origin.is_some_and(|origin| !self.avoided.contains(origin) && self.check.is_public(origin))
    }

    /// Fetches the rest of an object for a client that is sent upstream by this refusal. `None`: the client must pull
    /// it.
    pub async fn find(self: &Arc<Self>, target: &Target, refusal: &Refusal) -> Option<Found> {
        let (stream, size) = self.lead(target, refusal).await?;
        let payload = Payload::stream(stream);
        let digest = target.digest()?;
        Some(Found::blob(digest, Some(size), payload, Source::Upstream))
    }

    /// Lets a body of peers go on from upstream once flights send this node there. So the client keeps its slot:
    /// containerd queues a layer anew whose body ends early.
    pub fn go_on(self: &Arc<Self>, found: Found, target: &Target) -> Found {
        let payload = match found.payload {
            Payload::Stream(peers) => {
                Payload::stream(PeersThenUpstream::new(peers, self.clone(), target.clone()))
            }
            payload => payload,
        };
        Found { payload, ..found }
    }

    /// Opens the rest of an object upstream. Returns the size of the whole as well. `None`: upstream does not give it,
    /// or there is no memory for it. That time is charged to the pull.
    async fn lead(
        self: &Arc<Self>,
        target: &Target,
        refusal: &Refusal,
    ) -> Option<(LeadStream, u64)> {
        let awaited = self.flight.awaited_lead(target.digest()?);
        let attempts = target.pull.attempts.as_ref();
        let wait = attempts.map(|attempts| attempts.budget().wait());
        let left = wait.as_ref().map_or(ANSWER_LIMIT, |wait| wait.left);
        let lead = self.open_lead(target, left.clamp(SHORTEST_LIMIT, ANSWER_LIMIT));
        let Some((blob, size, permits)) = lead.await else {
            awaited.leave_to_client();
            return None;
        };
        if let Some(wait) = wait {
            wait.found(Duration::MAX);
        }
        if let Some(activity) = &target.pull.activity {
            activity.set_source(PullSource::Upstream(refusal.reason()));
        }
        self.metrics.flights_layers_fetched.inc();
        let origin = target.origin.clone()?;
        let lead = LeadStream::new(self.clone(), origin, awaited, blob, permits);
        Some((lead, size))
    }

    async fn open_lead(
        &self,
        target: &Target,
        limit: Duration,
    ) -> Option<(UpstreamBlob, u64, Permits)> {
        let (origin, digest) = (target.origin.as_ref()?, target.digest()?);
        // Another layer may have shown the contrary since the client asked.
        if !self.gives(Some(origin)) {
            return None;
        }
        let fetch = self.permit(digest)?;
        let ranges = target.ranges.as_ref();
        let memory = self.memory.share(target.caller).keep(BUFFER_BYTES);
        let permit = timeout(SHORTEST_LIMIT, memory).await.ok()??;
        let opening = self.open(origin, digest, ranges, all_from(ranges)?);
        match timeout(limit, opening).await {
            Ok(Ok((blob, size))) => return Some((blob, size, (fetch, permit))),
            Ok(Err(error)) => self.avoided.add(origin, digest, &error),
            Err(_) => self.avoided.add_silent(origin, digest, limit),
        }
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
