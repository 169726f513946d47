//! Sources that one pull leaves because they are far too slow.

use std::time::Duration;

use tokio::time::Instant;

use crate::PeerId;

/// A source is left for one of which the others may know that it is better, so many times for one pull…
const MOST: u8 = 3;
/// …and not again before.
const EVERY: Duration = Duration::from_secs(10);

/// A source that was left.
#[derive(Clone, Debug)]
pub struct Slow {
    pub source: PeerId,
    /// By way of whom its bytes come from upstream.
    pub leader: Option<PeerId>,
}

#[derive(Debug, Default)]
pub struct Left {
    /// The one that was left, as long as nobody was asked for a better one.
    slow: Option<Slow>,
    /// How many were left, and when the last one was.
    count: u8,
    at: Option<Instant>,
}

impl Left {
    /// Leaves a source, if that may be. Says whether it may.
    pub fn leave(&mut self, now: Instant, source: &PeerId, leader: Option<PeerId>) -> bool {
        let is_soon = self.at.is_some_and(|at| now - at < EVERY);
        if self.count >= MOST || is_soon {
            return false;
        }
        self.count += 1;
        self.at = Some(now);
        let source = source.clone();
        self.slow = Some(Slow { source, leader });
        true
    }

    pub fn is_waiting(&self) -> bool {
        self.slow.is_some()
    }

    /// Others are asked for a better one than this.
    pub fn take(&mut self) -> Option<Slow> {
        self.slow.take()
    }

    /// They were asked, and will be asked again.
    pub fn put_back(&mut self, slow: Option<Slow>) {
        self.slow = slow;
    }
}
