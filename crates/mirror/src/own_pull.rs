//! The pull that a request of this node's own client belongs to. Determined once, and passed along.

use std::sync::Arc;

use crate::Growing;
use crate::activity::PullActivity;
use crate::attempts::Attempts;
use crate::deliveries::Delivery;
use crate::trace::TraceContext;

/// The pull that a request belongs to. Empty for requests of other clients, except for its place in a trace.
#[derive(Clone, Debug, Default)]
pub struct OwnPull {
    /// The attempts for the object, and what the pull of the image may lose by waiting for peers.
    pub attempts: Option<Arc<Attempts>>,
    /// The object that is being taken into this node's store.
    pub ingest: Option<Growing>,
    /// The peers that deliver the object, if the client fills an ingest of its own with the answer. Only such requests
    /// take part in a flight and change the state of a pull.
    pub delivery: Option<Arc<Delivery>>,
    /// The displayed state of the pull.
    pub activity: Option<Arc<PullActivity>>,
    /// Whether this mirror fetches the object itself if this node leads; see
    /// [`lead_through`](crate::lead_through).
    pub leads_at_once: bool,
    /// Whether the client only measures, see [`MEASURED`](crate::request::MEASURED).
    pub is_measured: bool,
    /// The place of the request's spans in its trace.
    pub trace: TraceContext,
}

impl OwnPull {
    /// Records that upstream has failed the client, see [`Attempts::upstream_failed`].
    pub fn upstream_failed(&self) {
        if let Some(attempts) = &self.attempts {
            attempts.upstream_failed();
        }
    }

    /// Records that the store did not commit the delivered bytes, see [`Attempts::not_committed`].
    pub fn not_committed(&self) {
        if let Some(attempts) = &self.attempts {
            attempts.not_committed();
        }
    }
}
