//! The trait by which the mirror takes part in flights: who pulls an object from upstream, and who takes it from whom
//! (docs/decisions/0005-flights.md).

use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use oci::Digest;
use tokio::time::Instant;

pub use ::flights::{
    ChainPosition, Condition, Decision, LinkState, LinkTest, NodeId, PullProgress, Received,
    SlowSources, SourceRequest, SourceStatus, SourceWatch, Starved, Time, WatchAction, node_field,
    nodes_field, pull_rules, registry_hash,
};

use crate::flight_event_queue::flight_events;
use crate::{Candidate, FlightEvents};

/// The present time, as the rules of flights have it.
pub(crate) fn now() -> Time {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    Time::default().after(ORIGIN.elapsed())
}

/// Agrees with the other nodes on one that pulls an object from upstream, and on the source of each other node.
#[async_trait]
pub trait Flights: Send + Sync + 'static {
    /// Decides where this node pulls an object from that its own containerd requests.
    ///
    /// Answers within what the budget of the image pull leaves. Dropping the future withdraws the request.
    async fn request_source(&self, request: SourceRequest) -> Decision<Candidate>;

    /// Reports the progress of a pull for which [`Flights::request_source`] was called. Never blocks.
    fn report(&self, digest: &Digest, progress: PullProgress);

    /// Tells what this node receives, a few times a second while it receives anything. Never blocks.
    fn observe(&self, _rates: Received) {}

    /// Tells what a pull from this repository, by its hash, has lost by waiting for its sources. Never blocks.
    fn charge(&self, _repository: u64, _lost: Duration) {}

    /// Tells the result of a test. Never blocks.
    fn link_tested(&self, _test: LinkTest) {}

    /// The events from now on. They are handed out once; by default there are none.
    fn events(&self) -> FlightEvents {
        flight_events().1
    }
}
