//! The trait by which the mirror takes part in flights: who pulls an object from upstream, and who takes it from whom
//! (docs/decisions/0005-flights.md).

use async_trait::async_trait;
use oci::Digest;
use tokio::sync::watch;

pub use ::flights::{
    ChainPosition, Decision, NodeId, PullProgress, SourceRequest, node_field, nodes_field,
};

use crate::Candidate;

/// Agrees with the other nodes on one that pulls an object from upstream, and on the source of each other node.
#[async_trait]
pub trait Flights: Send + Sync + 'static {
    /// Decides where this node pulls an object from that its own containerd requests.
    ///
    /// Answers within what the budget of the image pull leaves. Dropping the future withdraws the request.
    async fn request_source(&self, request: SourceRequest) -> Decision<Candidate>;

    /// Reports the progress of a pull for which [`Flights::request_source`] was called. Never blocks.
    fn report(&self, digest: &Digest, progress: PullProgress);

    /// Changes whenever another node reports this one as far slower than its source, to what that source receives in
    /// all, in bytes per second. By default no node does.
    fn too_slow_reports(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// Another node, picked at random, to measure the bandwidth of this one against. By default there is none.
    async fn random_peer(&self) -> Option<Candidate> {
        None
    }

    /// Tells the other nodes whether this one is slow. While it is, they avoid it as a source. Never blocks. By default
    /// nobody is told.
    fn set_slow(&self, _is_slow: bool) {}
}
