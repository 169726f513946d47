//! Steps aside where others are held up behind this node: what it passes on ends, so that those who take it go elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{Shared, gauge};

/// A node that takes in less than so many parts of what one that feeds it does is slow. Where links are full both ways, or
/// two share an uplink, one that is as good as the others gets less than half for seconds…
pub const SLOWER: u64 = 3;
/// …until it takes in as much, or for so long…
pub const FORGIVEN: Duration = Duration::from_secs(10 * 60);
/// …twice as long each time that it shows again soon, up to this: what is slow for good is not to hold others up, for the
/// moment that it takes to show, at every pull…
const FORGIVEN_LAST: Duration = Duration::from_secs(24 * 3600);
/// …as it finds out by looking so often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where this node stands aside.
#[derive(Debug, Default)]
pub struct Aside {
    /// How often it stepped there.
    times: watch::Sender<u64>,
    is_slow: AtomicBool,
    /// What others are able to take in, in bytes a second, if a measurement has shown this node's link to be far slower.
    pub gauged: watch::Sender<Option<u64>>,
}

/// Tells whether it has since this was made.
#[derive(Clone, Debug)]
pub struct Since {
    times: watch::Receiver<u64>,
    before: u64,
}

impl Aside {
    pub fn since(&self) -> Since {
        let times = self.times.subscribe();
        let before = *times.borrow();
        Since { times, before }
    }
}

impl Since {
    pub fn has_stepped(&self) -> bool {
        *self.times.borrow() != self.before
    }

    pub async fn stepped(&mut self) {
        let before = self.before;
        if self.times.wait_for(|times| *times != before).await.is_err() {
            // It never will any more.
            std::future::pending::<()>().await;
        }
    }
}

/// Listens for those who feed this node and have far more than it takes of it, and for measurements, and steps aside if this
/// node is slow.
pub async fn run(shared: Arc<Shared>, mut outrun: watch::Receiver<u64>) {
    let mut slow: Option<Slow> = None;
    let mut was_slow: Option<Slow> = None;
    let mut gauged = shared.aside.gauged.subscribe();
    loop {
        tokio::select! {
            changed = outrun.changed() => {
                if changed.is_err() {
                    return;
                }
                let theirs = *outrun.borrow_and_update();
                let own = shared.lately();
                // Who gets as much in other ways holds nobody up.
                if own >= theirs / SLOWER {
                    continue;
                }
                tracing::debug!(own, theirs, "others are held up behind this node; it steps aside");
                shared.metrics.flights_stepped_aside.inc();
                shared.aside.times.send_modify(|times| *times += 1);
                if slow.is_none() {
                    shared.lags(true);
                    slow = Some(Slow::new(theirs, was_slow.take()));
                }
            }
            Ok(()) = gauged.changed() => {
                let theirs = *gauged.borrow_and_update();
                if theirs.is_none() && !slow.as_ref().is_some_and(|slow| slow.is_gauged) {
                    continue;
                }
                tracing::debug!(?theirs, "this node's link was measured");
                shared.lags(theirs.is_some());
                slow = theirs.map(Slow::gauged);
            }
            caught_up = shared.redeems(&slow) => {
                shared.lags(false);
                was_slow = slow.take().filter(|_| !caught_up);
            }
        }
    }
}

/// That this node is slow.
struct Slow {
    /// What others take in, in bytes a second.
    theirs: u64,
    /// When that is forgiven, and after how long.
    until: Instant,
    span: Duration,
    /// A measurement has shown it.
    is_gauged: bool,
}

impl Slow {
    /// It was `before`, and was forgiven.
    fn new(theirs: u64, before: Option<Self>) -> Self {
        // That it feeds many who stay behind may be theirs.
        let is_sure = theirs < u64::MAX;
        let before = before.filter(|b| is_sure && b.until.elapsed() < b.span);
        let span = before.map_or(FORGIVEN, |before| (before.span * 2).min(FORGIVEN_LAST));
        let until = Instant::now() + span;
        Self {
            theirs,
            until,
            span,
            is_gauged: false,
        }
    }

    /// A measurement has shown it. The next one tells whether it still is.
    fn gauged(theirs: u64) -> Self {
        let span = gauge::LATER * 2;
        Self {
            theirs,
            until: Instant::now() + span,
            span,
            is_gauged: true,
        }
    }
}

impl Shared {
    fn lags(&self, lags: bool) {
        if self.aside.is_slow.swap(lags, Ordering::Relaxed) != lags {
            self.metrics.flights_slow.set(lags.into());
            self.flights.lag(lags);
        }
    }

    /// Whether others are held up behind this node.
    pub fn is_slow(&self) -> bool {
        self.aside.is_slow.load(Ordering::Relaxed)
    }

    /// It turns out that this node has taken in far more than it is given: others are slow.
    pub fn is_able(&self) {
        self.lags(false);
    }

    /// What comes now, in bytes a second.
    fn lately(&self) -> u64 {
        self.rate.lock().lately(Instant::now())
    }

    /// Waits until this node is slow no longer. `true`: it takes in as much as others did, or could. `false`: it is
    /// forgiven.
    async fn redeems(&self, slow: &Option<Slow>) -> bool {
        let Some(slow) = slow else {
            return std::future::pending().await;
        };
        while Instant::now() < slow.until {
            if self.lately() >= slow.theirs || !self.is_slow() {
                return true;
            }
            sleep(LOOK_EVERY).await;
        }
        false
    }
}
