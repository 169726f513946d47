//! The trait by which the mirror takes part in flights: which node pulls an object from upstream, and the source of
//! each other node (docs/decisions/0005-flights.md).

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

/// The present time, for the rules of flights.
pub(crate) fn now() -> Time {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    Time::default().after(ORIGIN.elapsed())
}

/// From where this node pulls an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    pub decision: Decision<Candidate>,
    /// What the pull has lost by waiting so far, what was [charged](Flights::charge) included.
    pub lost: Duration,
}

impl Decided {
    /// Upstream, because no other node can be asked.
    pub fn alone() -> Self {
        Decision::Alone.into()
    }
}

impl From<Decision<Candidate>> for Decided {
    /// Nothing is lost.
    fn from(decision: Decision<Candidate>) -> Self {
        let lost = Duration::ZERO;
        Self { decision, lost }
    }
}

/// Agrees with the other nodes which one pulls an object from upstream, and on the source of each other node.
#[async_trait]
pub trait Flights: Send + Sync + 'static {
    /// Decides from where this node pulls an object that its own containerd requests.
    ///
    /// Answers within the remaining budget of the image pull. Dropping the future withdraws the request.
    async fn request_source(&self, request: SourceRequest) -> Decided;

    /// Reports the progress of a pull for which [`Flights::request_source`] was called. Never blocks.
    fn report(&self, digest: &Digest, progress: PullProgress);

    /// Reports the rates at which this node receives, a few times a second while it receives anything. Never blocks.
    fn observe(&self, _rates: Received) {}

    /// Reports the time that a pull from this repository, by its hash, has lost by waiting for its sources. Never
    /// blocks.
    fn charge(&self, _repository: u64, _lost: Duration) {}

    /// Reports the result of a test. Never blocks.
    fn link_tested(&self, _test: LinkTest) {}

    /// The events from now on. They are returned once; by default there are none.
    fn events(&self) -> FlightEvents {
        flight_events().1
    }
}
