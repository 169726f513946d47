//! A lead whose object this mirror fetches.

use std::sync::Arc;

use oci::Digest;

use super::shared::Shared;
use crate::PullProgress;

/// A lead whose bytes are still to come. If it is dropped, the mirror has ceased to fetch the object: the client may go
/// on much later, so another node leads.
pub struct AwaitedLead {
    shared: Arc<Shared>,
    digest: Digest,
    /// The decision that it follows from.
    decision: Option<u32>,
}

impl AwaitedLead {
    pub(super) fn new(shared: Arc<Shared>, digest: &Digest) -> Self {
        let pull = shared.pulls.get(digest);
        let decision = pull.map(|pull| pull.states().borrow().decisions);
        Self {
            shared,
            digest: digest.clone(),
            decision,
        }
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Ends it with its last byte.
    pub fn complete(mut self) {
        self.decision = None;
    }

    /// Records that the client pulls the object instead.
    pub fn leave_to_client(mut self) {
        self.decision = None;
        let flights = &self.shared.flights;
        flights.report(&self.digest, PullProgress::LeftToClient);
    }
}

impl Drop for AwaitedLead {
    fn drop(&mut self) {
        if let Some(decision) = self.decision
            && let Some(pull) = self.shared.pulls.get(&self.digest)
        {
            pull.lead_broke(decision);
        }
    }
}
