//! Agrees with the nodes that pull the same object which of them pulls it from upstream; the others follow it
//! (docs/decisions/0005-flights.md). This step comes between the search in this node's store and the search at peers.
//!
//! For the node's own client the flight names a source, or sends the client upstream. A watcher reports the progress of
//! the pull, and the bytes received so far are served to followers.

mod awaited_lead;
mod flight_sources;
mod follower_stream;
mod handle_events;
mod pulls;
mod serve_growing;
mod shared;
mod speed;
mod uploads;
mod watcher;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::Response;
use oci::{ByteRange, Digest};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::body::send_memory::Share;
use crate::fetch::{Fetcher, link_test};
use crate::flights::pull_rules::{self, Role};
use crate::found::{Found, Payload, Source};
use crate::from_peers::FromPeers;
use crate::images::Images;
use crate::metrics::Metrics;
use crate::object_stream::{BodyError, ObjectStream, Pieces};
use crate::open_range::all_from;
use crate::refusal::Refusal;
use crate::request::{Kind, Target};
use crate::source_provider::SourceProvider;
use crate::{Body, Decision, Flights, PullProgress, Store, local};

use flight_sources::FlightSources;
use pulls::Pull;
use shared::Shared;

pub use awaited_lead::AwaitedLead;
pub use pulls::Sharing;

/// The limit of the request and the first source. containerd from 2.3 waits 30 s for the head of an answer.
const FIND_LIMIT: Duration = Duration::from_secs(25);

/// The step.
pub struct Flight {
    shared: Arc<Shared>,
    from_peers: Arc<FromPeers>,
    /// Stops the tasks when the mirror is dropped.
    _stops: DropGuard,
}

impl Flight {
    pub fn new(
        flights: Arc<dyn Flights>,
        store: Arc<dyn Store>,
        fetcher: Arc<Fetcher>,
        from_peers: Arc<FromPeers>,
        images: Arc<Images>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let stop = CancellationToken::new();
        let _stops = stop.clone().drop_guard();
        let shared = Arc::new(Shared {
            flights,
            store,
            memory: from_peers.memory().clone(),
            fetcher,
            metrics,
            images,
            pulls: pulls::Pulls::default(),
            uploads: Arc::default(),
            speed: Arc::default(),
            tasks: TaskTracker::new(),
            stop,
        });
        shared.spawn(handle_events::run(shared.clone(), shared.flights.events()));
        Self {
            shared,
            from_peers,
            _stops,
        }
    }

    /// Drops a range that covers the whole object, so that the answer is 200 with the whole object.
    ///
    /// A server may ignore a range (RFC 9110, 14.2). containerd then uses one stream, which suits a flight best.
    pub fn ignore_range_of_all(target: &mut Target) {
        target.ranges.take_if(|r| all_from(Some(r)) == Some(0));
    }

    /// Finds an object for the node's own client at the source that the flight names.
    ///
    /// `sharing`: whether other nodes may have it; [`Self::share`] can set it later.
    ///
    /// # Errors
    ///
    /// The client must pull from upstream ([`Refusal::Leads`], [`Refusal::Alone`]), within [`FIND_LIMIT`].
    pub async fn find(&self, target: &Target, sharing: Sharing) -> Result<Found, Refusal> {
        let kind = target.kind;
        let (Some(digest), Some(offset)) = (target.digest(), all_from(target.ranges.as_ref()))
        else {
            return Err(Refusal::NoPeer(kind));
        };
        let following = self.follow(target, digest, offset, sharing);
        let result = match timeout(FIND_LIMIT, following).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::Alone(kind)),
        };
        if matches!(result, Ok(_) | Err(Refusal::Unsatisfiable { .. })) {
            return result;
        }
        if let Some(pull) = watcher::watch(&self.shared, target, digest, sharing)
            && pull.states().borrow().role != Role::Leads
        {
            pull.set_leading();
        }
        result
    }

    async fn follow(
        &self,
        target: &Target,
        digest: &Digest,
        offset: u64,
        sharing: Sharing,
    ) -> Result<Found, Refusal> {
        let shared = &self.shared;
        if target.are_attempts_spent() {
            return Err(Refusal::Alone(target.kind));
        }
        if offset == 0 && self.waits_for_lower_layers(target, digest).await {
            // By then the layers that should go first are queued as well.
            sleep(pull_rules::QUEUED_AFTER).await;
            return self.requeue(target, digest);
        }
        let restarted_after_failure = |pull: Arc<Pull>| pull.restarted_after_failure();
        if offset == 0
            && shared
                .pulls
                .get(digest)
                .is_some_and(restarted_after_failure)
        {
            shared.flights.report(digest, PullProgress::Failed);
        }
        if let Some(pull) = shared.pulls.get(digest) {
            pull.resume_at(offset);
        }
        let flight_sources =
            FlightSources::new(shared.clone(), target.clone(), digest.clone(), sharing);
        let flight_sources = Arc::new(flight_sources);
        let decision = flight_sources
            .next(offset, self.requeue_after(target, digest))
            .await;
        match decision {
            Decision::Later => return self.requeue(target, digest),
            Decision::Lead => return Err(Refusal::Leads(target.kind)),
            Decision::Alone => return Err(Refusal::Alone(target.kind)),
            Decision::Follow { .. } => flight_sources.grant(decision),
        }
        let provider: Arc<dyn SourceProvider> = flight_sources.clone();
        let found = self.from_peers.find_by(&provider, target).await?;
        if let (Kind::Manifest, Payload::Bytes(bytes)) = (target.kind, &found.payload) {
            shared.images.learn(bytes, flight_sources.leader());
        }
        Ok(found)
    }

    /// The time after which a request is requeued.
    fn requeue_after(&self, target: &Target, digest: &Digest) -> Option<Duration> {
        let shared = &self.shared;
        let can = target.kind == Kind::Blob
            && target.may_requeue()
            && shared.store.downloads_share_slots()
            && shared.object_info(target, digest).size.is_some();
        can.then_some(pull_rules::REQUEUE_AFTER)
    }

    /// Whether the layers below this one should go first.
    async fn waits_for_lower_layers(&self, target: &Target, digest: &Digest) -> bool {
        let shared = self.shared.clone();
        let may_requeue = target.kind == Kind::Blob && target.may_requeue();
        if !may_requeue || !shared.store.downloads_share_slots() {
            return false;
        }
        let layers = shared.object_info(target, digest).layers;
        let below = layers.iter().take_while(|layer| *layer != digest).count();
        let waits = move |store: &dyn Store| {
            let is_here = |layer: &Digest| matches!(store.open(layer), Ok(Some(_)));
            let below = layers.iter().take(below);
            let missing = below.filter(|layer| !is_here(layer)).count();
            // A requeued request goes behind those of other images.
            pull_rules::waits_for_lower_layers(layers.len(), missing)
                && !shared.images.has_other_missing_layers(&layers, is_here)
        };
        let waits = local::read_store(&self.shared.store, waits).await;
        waits.unwrap_or(false)
    }

    /// An answer whose body ends without a byte, so that containerd requeues the request.
    fn requeue(&self, target: &Target, digest: &Digest) -> Result<Found, Refusal> {
        let size = self.shared.object_info(target, digest).size;
        let size = size.ok_or(Refusal::Alone(target.kind))?;
        if let Some(attempts) = &target.pull.attempts {
            attempts.requeued();
        }
        self.shared.metrics.flights_requeued.inc();
        let payload = Payload::stream(RetryLater);
        Ok(Found::blob(digest, Some(size), payload, Source::Growing))
    }

    /// Answers a link test of another node.
    ///
    /// # Errors
    ///
    /// There have been too many just now.
    pub fn answer_link_test(&self) -> Result<Response<Body>, Refusal> {
        let speed = &self.shared.speed;
        if speed.test_permits.admit() {
            Ok(link_test::answer(speed.link.borrow().bandwidth))
        } else {
            Err(Refusal::Occupied)
        }
    }

    /// The nodes that receive an object from this one while it grows, by object.
    pub fn followers(&self) -> HashMap<Digest, usize> {
        self.shared.uploads.followers()
    }

    /// Records bytes of an object that this mirror fetches from upstream: followers get them at once.
    pub fn receive(&self, digest: &Digest, offset: u64, bytes: &Bytes) {
        if let Some(pull) = self.shared.pulls.get(digest) {
            pull.receive(offset, bytes);
        }
    }

    /// The lead of an object that this mirror is about to fetch.
    pub fn awaited_lead(&self, digest: &Digest) -> AwaitedLead {
        AwaitedLead::new(self.shared.clone(), digest)
    }

    /// Sets whether other nodes may have what this node pulls.
    pub fn share(&self, digest: &Digest, sharing: Sharing) {
        if let Some(pull) = self.shared.pulls.get(digest) {
            pull.set_sharing(sharing);
        }
    }
}

/// A body that ends without a byte.
#[derive(Debug, thiserror::Error)]
#[error("ended without a byte, to be asked for again")]
struct RetryLater;

impl ObjectStream for RetryLater {
    fn stream(self: Box<Self>, _: ByteRange, _: Arc<Share>) -> Pieces {
        let end = Err(BodyError::Stream(self));
        futures::stream::iter([end]).boxed()
    }

    fn again(&self) -> Box<dyn ObjectStream> {
        Box::new(Self)
    }
}

#[cfg(test)]
mod tests;
