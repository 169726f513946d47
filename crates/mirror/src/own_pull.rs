//! What is known of the pull that a request of this node's own client belongs to. Found out once, and carried along.

use std::sync::Arc;

use crate::Growing;
use crate::activity::PullActivity;
use crate::attempts::Attempts;
use crate::deliveries::Delivery;
use crate::trace::TraceContext;

/// The pull that a request belongs to. Empty for requests of others, but for its place in a trace.
#[derive(Clone, Debug, Default)]
pub struct OwnPull {
    /// What was tried for the object, and what the pull of the image may lose by waiting for peers.
    pub attempts: Option<Arc<Attempts>>,
    /// The object on its way into this node's store.
    pub ingest: Option<Growing>,
    /// Who delivers the object, if the client fills an ingest of its own with the answer. Only such requests take
    /// part in a flight and change the state of a pull.
    pub delivery: Option<Arc<Delivery>>,
    /// What is shown of the pull.
    pub activity: Option<Arc<PullActivity>>,
    /// Whether the client only measures, see [`MEASURED`](crate::request::MEASURED).
    pub is_measured: bool,
    /// Where the spans of the request's steps belong.
    pub trace: TraceContext,
}

impl OwnPull {
    /// Records that upstream has failed the client, see [`Attempts::upstream_failed`].
    pub fn upstream_failed(&self) {
        if let Some(attempts) = &self.attempts {
            attempts.upstream_failed();
        }
    }

    /// Records that the store did not commit what was delivered, see [`Attempts::not_committed`].
    pub fn not_committed(&self) {
        if let Some(attempts) = &self.attempts {
            attempts.not_committed();
        }
    }
}
