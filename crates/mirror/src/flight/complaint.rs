//! Sources that are left because they give far too little, and who is to blame for it.

use std::time::Duration;

use oci::{Origin, Registry};
use tokio::time::Instant;

use super::usual::Way;
use crate::PeerId;

/// A source is left for one of which the others may know that it is better, so many times for one pull…
const MOST: u8 = 3;
/// …and not again before. What was not asked for by then is forgotten.
const EVERY: Duration = Duration::from_secs(10);
/// What was found of who leads one object holds for the others of its repository for so long.
const HOLDS: Duration = Duration::from_secs(3);

/// A source that was left.
#[derive(Clone, Debug)]
pub struct Complaint {
    pub source: PeerId,
    /// By way of whom its bytes come from upstream.
    pub leader: Option<PeerId>,
}

/// Those of one pull.
#[derive(Debug, Default)]
pub struct Complaints {
    /// How the bytes of the pull come.
    way: Option<Way>,
    /// The last one, as long as nobody was asked for a better source.
    open: Option<Complaint>,
    count: u8,
    /// When the last one was.
    at: Option<Instant>,
}

impl Complaints {
    pub fn way(&self) -> Option<&Way> {
        self.way.as_ref()
    }

    /// The pull follows a source; see [`Way::of`]. Who has got what a registry sends, as it came, is no further behind at
    /// another source.
    pub fn follows(&mut self, led_for: Option<Duration>, registry: Option<&Registry>) {
        let is_registry = |way: &Way| *way != Way::Peers;
        let before = self.way.take().filter(is_registry);
        self.way = Way::of(led_for, registry).or(before.filter(|_| led_for.is_some()));
    }

    /// Leaves a source, if that may be. Says whether it may.
    pub fn leave(&mut self, now: Instant, complaint: Complaint) -> bool {
        let may = self.count < MOST && !self.is_recent(now);
        if may {
            self.count += 1;
            self.at = Some(now);
            self.open = Some(complaint);
        }
        may
    }

    /// What others are to be asked about.
    pub fn take(&mut self, now: Instant) -> Option<Complaint> {
        let is_recent = self.is_recent(now);
        self.open.take().filter(|_| is_recent)
    }

    /// They were asked, and will be asked again.
    pub fn put_back(&mut self, complaint: Option<Complaint>) {
        self.open = self.open.take().or(complaint);
    }

    fn is_recent(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| now - at < EVERY)
    }
}

/// Who leads and was found far too slow.
#[derive(Clone, Debug)]
pub struct SlowLead {
    pub leader: PeerId,
    pub origin: Origin,
    pub at: Instant,
}

impl SlowLead {
    /// Whether that is to be said of another object of this origin.
    pub fn holds_for(&self, origin: &Origin) -> bool {
        self.origin == *origin && self.at.elapsed() < HOLDS
    }
}
