//! The sources that one pull has left because they sent far less than they had.

use std::time::Duration;

use crate::{NodeId, Time};

/// The most times that one pull leaves a source as too slow.
const MAX_TIMES: u8 = 3;
/// A pull leaves no further source for this long. A report that was not sent by then is dropped.
const PAUSE: Duration = Duration::from_secs(10);

/// Which sources a pull has left as too slow, and when.
#[derive(Clone, Debug, Default)]
pub struct SlowSources {
    count: u8,
    /// The last source left, until other nodes are told.
    unreported: Option<NodeId>,
    at: Option<Time>,
}

impl SlowSources {
    /// Records that a source is left, if that is allowed. Returns whether it is.
    pub fn leave(&mut self, now: Time, source: NodeId) -> bool {
        let may = self.count < MAX_TIMES && !self.is_recent(now);
        if may {
            self.count += 1;
            self.at = Some(now);
            self.unreported = Some(source);
        }
        may
    }

    /// The source to report, if there is one.
    pub fn take(&mut self, now: Time) -> Option<NodeId> {
        let is_recent = self.is_recent(now);
        self.unreported.take().filter(|_| is_recent)
    }

    /// Keeps a source: the request will be repeated.
    pub fn put_back(&mut self, source: Option<NodeId>) {
        self.unreported = self.unreported.take().or(source);
    }

    fn is_recent(&self, now: Time) -> bool {
        self.at.is_some_and(|at| now.since(at) < PAUSE)
    }
}
