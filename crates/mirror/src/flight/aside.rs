//! Steps aside where others are held up behind this node: what it passes on ends, so that those who take it go elsewhere.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::Shared;

/// A node that takes in less than so many parts of what one that feeds it does is slow…
const SLOWER: u64 = 2;
/// …until it takes in so many times as much…
const FASTER: u64 = 2;
/// …or for so long…
pub const FORGIVEN: Duration = Duration::from_secs(10 * 60);
/// …as it finds out by looking so often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The times that this node stepped aside.
#[derive(Debug, Default)]
pub struct Aside(watch::Sender<u64>);

/// Tells whether it has since this was made.
#[derive(Clone, Debug)]
pub struct Since {
    times: watch::Receiver<u64>,
    before: u64,
}

impl Aside {
    pub fn since(&self) -> Since {
        let times = self.0.subscribe();
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

/// Listens for those who feed this node and have far more than it takes of it, and steps aside if that is because this
/// node is slow.
pub async fn run(shared: Arc<Shared>, mut outrun: watch::Receiver<u64>) {
    while outrun.changed().await.is_ok() {
        let theirs = *outrun.borrow_and_update();
        let own = shared.lately();
        // Who gets as much in other ways holds nobody up.
        if own >= theirs / SLOWER {
            continue;
        }
        tracing::debug!(
            own,
            theirs,
            "others are held up behind this node; it steps aside"
        );
        shared.metrics.flights_stepped_aside.inc();
        shared.flights.lag(true);
        shared.aside.0.send_modify(|times| *times += 1);
        let _ = timeout(FORGIVEN, shared.catches_up(theirs)).await;
        shared.flights.lag(false);
        outrun.mark_unchanged();
    }
}

impl Shared {
    /// What comes now, in bytes a second.
    fn lately(&self) -> u64 {
        self.rate.lock().lately(Instant::now())
    }

    /// Waits until this node takes in far more than others did.
    async fn catches_up(&self, theirs: u64) {
        while self.lately() < theirs.saturating_mul(FASTER) {
            sleep(LOOK_EVERY).await;
        }
    }
}
