//! Whether this node is slow. A slow node ends the streams of its followers, so that they use other sources.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{Shared, link_probe};

/// A node is slow below 1/SLOWER of its source's intake.
///
/// Where links are full in both directions, or two nodes share an uplink, a good node receives less than half for
/// seconds.
pub const SLOWER: u64 = 3;
/// A slow node stays slow until it receives as much as its source did, or for this long.
pub const SLOW_FOR: Duration = Duration::from_secs(10 * 60);
/// The time doubles whenever the node is slow again soon after, up to this: a permanently slow node should not delay
/// others at every pull.
const SLOW_FOR_MAX: Duration = Duration::from_secs(24 * 3600);
/// The interval between checks whether the node is still slow.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// The state that requests and bodies see.
#[derive(Debug, Default)]
pub struct SlowState {
    /// Counts how often followers were evicted.
    times: watch::Sender<u64>,
    is_slow: AtomicBool,
    /// What other nodes can receive, in bytes per second, if a measurement has shown this node to be far slower.
    pub measured: watch::Sender<Option<u64>>,
}

/// Raised when followers are evicted after its creation.
#[derive(Clone, Debug)]
pub struct EvictionSignal {
    times: watch::Receiver<u64>,
    before: u64,
}

impl SlowState {
    pub fn since(&self) -> EvictionSignal {
        let times = self.times.subscribe();
        let before = *times.borrow();
        EvictionSignal { times, before }
    }
}

impl EvictionSignal {
    pub fn is_raised(&self) -> bool {
        *self.times.borrow() != self.before
    }

    pub async fn raised(&mut self) {
        let before = self.before;
        if self.times.wait_for(|times| *times != before).await.is_err() {
            // It will never be raised.
            std::future::pending::<()>().await;
        }
    }
}

/// Handles reports that this node is too slow, and measurements of its link.
pub async fn run(shared: Arc<Shared>, mut too_slow_reports: watch::Receiver<u64>) {
    let mut slow: Option<Slow> = None;
    let mut was_slow: Option<Slow> = None;
    let mut measured = shared.slow_state.measured.subscribe();
    loop {
        tokio::select! {
            changed = too_slow_reports.changed() => {
                if changed.is_err() {
                    return;
                }
                let theirs = *too_slow_reports.borrow_and_update();
                let own = shared.recent_rate();
                // A node that receives as much from other sources holds no node up.
                if own >= theirs / SLOWER {
                    continue;
                }
                tracing::debug!(own, theirs, "this node is too slow for its followers; their streams end");
                shared.metrics.flights_evictions.inc();
                shared.slow_state.times.send_modify(|times| *times += 1);
                if slow.is_none() {
                    shared.set_slow(true);
                    slow = Some(Slow::new(theirs, was_slow.take()));
                }
            }
            Ok(()) = measured.changed() => {
                let theirs = *measured.borrow_and_update();
                if theirs.is_none() && !slow.as_ref().is_some_and(|slow| slow.is_measured) {
                    continue;
                }
                tracing::debug!(?theirs, "measured the bandwidth of this node");
                shared.set_slow(theirs.is_some());
                slow = theirs.map(Slow::measured);
            }
            caught_up = shared.until_not_slow(&slow) => {
                shared.set_slow(false);
                was_slow = slow.take().filter(|_| !caught_up);
            }
        }
    }
}

/// That this node is slow.
struct Slow {
    /// What other nodes receive, in bytes per second.
    theirs: u64,
    /// When the state ends, and how long it lasts.
    until: Instant,
    span: Duration,
    /// A measurement has shown it.
    is_measured: bool,
}

impl Slow {
    /// `before`: the last such state, which has ended.
    fn new(theirs: u64, before: Option<Self>) -> Self {
        // If many of its followers lag, they may be the slow ones.
        let is_sure = theirs < u64::MAX;
        let before = before.filter(|b| is_sure && b.until.elapsed() < b.span);
        let span = before.map_or(SLOW_FOR, |before| (before.span * 2).min(SLOW_FOR_MAX));
        let until = Instant::now() + span;
        Self {
            theirs,
            until,
            span,
            is_measured: false,
        }
    }

    /// A measurement has shown it. The next one tells whether it still holds.
    fn measured(theirs: u64) -> Self {
        let span = link_probe::LATER * 2;
        Self {
            theirs,
            until: Instant::now() + span,
            span,
            is_measured: true,
        }
    }
}

impl Shared {
    fn set_slow(&self, is_slow: bool) {
        if self.slow_state.is_slow.swap(is_slow, Ordering::Relaxed) != is_slow {
            self.metrics.flights_slow.set(is_slow.into());
            self.flights.set_slow(is_slow);
        }
    }

    /// Whether this node is slow.
    pub fn is_slow(&self) -> bool {
        self.slow_state.is_slow.load(Ordering::Relaxed)
    }

    /// Clears the state: this node has received far more than its source sends now, so the source is slow.
    pub fn clear_slow(&self) {
        self.set_slow(false);
    }

    /// What this node receives now, in bytes per second.
    fn recent_rate(&self) -> u64 {
        self.rate.lock().recent_rate(Instant::now())
    }

    /// Waits until this node is no longer slow. Returns whether it received as much as others; otherwise its time is
    /// over.
    async fn until_not_slow(&self, slow: &Option<Slow>) -> bool {
        let Some(slow) = slow else {
            return std::future::pending().await;
        };
        while Instant::now() < slow.until {
            if self.recent_rate() >= slow.theirs || !self.is_slow() {
                return true;
            }
            sleep(CHECK_EVERY).await;
        }
        false
    }
}
