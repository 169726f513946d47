//! Sources that one pull leaves because they give far too little.

use std::time::Duration;

use oci::Registry;
use tokio::time::Instant;

use super::usual::Way;
use crate::PeerId;

/// A source is left for one of which the others may know that it is better, so many times for one pull…
const MOST: u8 = 3;
/// …and not again before. What was not asked for by then is forgotten.
const EVERY: Duration = Duration::from_secs(10);

/// A source that was left.
#[derive(Clone, Debug)]
pub struct Complaint {
    pub source: PeerId,
    /// By way of whom its bytes come from upstream.
    pub leader: Option<PeerId>,
    at: Instant,
}

#[derive(Debug, Default)]
pub struct Complaints {
    /// How the bytes of the pull come.
    way: Option<Way>,
    /// The last one, as long as nobody was asked for a better source.
    open: Option<Complaint>,
    count: u8,
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
    pub fn leave(&mut self, now: Instant, source: PeerId, leader: Option<PeerId>) -> bool {
        let is_soon = self.at.is_some_and(|at| now - at < EVERY);
        if self.count >= MOST || is_soon {
            return false;
        }
        self.count += 1;
        self.at = Some(now);
        self.open = Some(Complaint {
            source,
            leader,
            at: now,
        });
        true
    }

    /// What others are to be asked about.
    pub fn take(&mut self, now: Instant) -> Option<Complaint> {
        let is_fresh = |complaint: &Complaint| now - complaint.at < EVERY;
        self.open.take().filter(is_fresh)
    }

    /// They were asked, and will be asked again.
    pub fn put_back(&mut self, complaint: Option<Complaint>) {
        self.open = self.open.take().or(complaint);
    }
}
