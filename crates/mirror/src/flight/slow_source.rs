//! Sources left because they send far too little, and the leaders that may be the reason.

use std::time::Duration;

use oci::{Origin, Registry};
use tokio::time::Instant;

use super::throughput_baseline::Path;
use crate::NodeId;

/// The most times that one pull may leave a source as too slow.
const MOST: u8 = 3;
/// A pull leaves no further source for this long. A report not sent by then is dropped.
const EVERY: Duration = Duration::from_secs(10);
/// A leader found too slow for one object counts as slow for other objects of the repository for this long.
const HOLDS: Duration = Duration::from_secs(3);

/// A source that was left as too slow.
#[derive(Clone, Debug)]
pub struct SlowSourceReport {
    pub source: NodeId,
    /// The leader that its bytes come from, if it may be the reason.
    pub leader: Option<NodeId>,
}

/// The reports of one pull.
#[derive(Debug, Default)]
pub struct SlowSourceReports {
    /// The path of the bytes.
    path: Option<Path>,
    /// The last report, until it is sent.
    open: Option<SlowSourceReport>,
    count: u8,
    /// When the last source was left.
    at: Option<Instant>,
}

impl SlowSourceReports {
    pub fn path(&self) -> Option<&Path> {
        self.path.as_ref()
    }

    /// Records that the pull follows a source; see [`Path::of`]. A node that received from a registry as fast as it
    /// sends is no further behind at another source.
    pub fn follows(&mut self, led_for: Option<Duration>, registry: Option<&Registry>) {
        let is_registry = |path: &Path| *path != Path::Peers;
        let before = self.path.take().filter(is_registry);
        self.path = Path::of(led_for, registry).or(before.filter(|_| led_for.is_some()));
    }

    /// Leaves a source, if that is allowed. Returns whether it is.
    pub fn leave(&mut self, now: Instant, report: SlowSourceReport) -> bool {
        let may = self.count < MOST && !self.is_recent(now);
        if may {
            self.count += 1;
            self.at = Some(now);
            self.open = Some(report);
        }
        may
    }

    /// The report to send, if there is one.
    pub fn take(&mut self, now: Instant) -> Option<SlowSourceReport> {
        let is_recent = self.is_recent(now);
        self.open.take().filter(|_| is_recent)
    }

    /// Keeps a report: the request will be repeated.
    pub fn put_back(&mut self, report: Option<SlowSourceReport>) {
        self.open = self.open.take().or(report);
    }

    fn is_recent(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| now - at < EVERY)
    }
}

/// A leader found far too slow.
#[derive(Clone, Debug)]
pub struct SlowLeader {
    pub leader: NodeId,
    pub origin: Origin,
    pub at: Instant,
}

impl SlowLeader {
    /// Whether this applies to another object of the origin.
    pub fn holds_for(&self, origin: &Origin) -> bool {
        self.origin == *origin && self.at.elapsed() < HOLDS
    }
}
