//! What one follower is fed with, of an object that is still on its way to this node.

use std::sync::Arc;
use std::time::Duration;

use oci::{ByteRange, Digest};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Shared;
use super::aside::Since;
use super::lag::{CLOSE, Lag, WINDOW, is_starved};
use super::pulls::{Pull, Standing, State};
use crate::tap::TapReader;
use crate::{Growing, News, Place, Stage};

/// When nothing has come for so long, it is looked at whether a ring is why.
const STILL: Duration = Duration::from_secs(1);

/// Why a follower does better elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum LetGo {
    #[error("this node steps aside: others are held up behind it")]
    Aside,
    #[error("nothing more comes, and this node may be fed by way of the one that it feeds")]
    Ring,
}

/// A follower's end of a pull.
#[derive(Clone, Debug)]
pub struct Feed {
    /// What has just come.
    pub tap: TapReader,
    /// What of the object the follower is still to be handed.
    left: watch::Sender<ByteRange>,
    aside: Since,
    place: Place,
    states: watch::Receiver<State>,
    /// Nothing came for a while, and this node no longer comes before the follower.
    is_in_ring: bool,
}

/// A pull that feeds a follower.
#[derive(Debug)]
pub struct Feeding {
    pub digest: Digest,
    /// Of the whole object, in bytes.
    pub size: u64,
    pub growing: Growing,
    pub pull: Arc<Pull>,
}

impl Feeding {
    /// Feeds a follower at `place` from `offset` on, and sees whether it stays behind.
    pub fn open(self, shared: &Arc<Shared>, offset: u64, place: Place) -> Feed {
        let (tap, states) = (self.pull.tap.reader(), self.pull.states());
        let (left, left_of_it) = watch::channel(offset..self.size);
        // Nobody can fall behind by more than there is.
        if self.size > CLOSE {
            shared.spawn(self.watch(shared.clone(), place, left_of_it));
        }
        Feed {
            tap,
            left,
            aside: shared.aside.since(),
            place,
            states,
            is_in_ring: false,
        }
    }

    /// Tells the others of a follower that stays behind. A body does not know by itself: it is asked for bytes only when
    /// its connection has taken those before.
    async fn watch(self, shared: Arc<Shared>, place: Place, left: watch::Receiver<ByteRange>) {
        let mut lag = Lag::new(Instant::now());
        let mut looks = interval(WINDOW);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Until the body is dropped, or nothing more comes.
        while left.has_changed().is_ok() && self.growing.progress().stage == Stage::Filling {
            let now = looks.tick().await;
            let left = left.borrow().clone();
            let position = self.pull.position(&self.growing).min(left.end);
            if let Some(taken) = lag.look(now, position, left.start) {
                lag.forget();
                let rate = shared.rate.lock().lately(now);
                if is_starved(taken, rate, shared.uploads.load(now)) {
                    continue;
                }
                tracing::debug!(digest = %self.digest, %place, rate, "a follower stays behind");
                shared.metrics.flights_outrun.inc();
                let news = News::Outrun { place, rate };
                shared.flights.report(&self.digest, news);
            }
        }
    }
}

impl Feed {
    /// This much of the object is still to be handed to the follower.
    pub fn left(&self, left: &ByteRange) {
        self.left.send_replace(left.clone());
    }

    /// Why the follower is to go elsewhere, if it is.
    pub fn lets_go(&self) -> Option<LetGo> {
        let is_aside = self.aside.has_stepped();
        let ring = self.is_in_ring.then_some(LetGo::Ring);
        is_aside.then_some(LetGo::Aside).or(ring)
    }

    /// Whether the order in which places were given says that the follower, who has all that there is, may feed this node
    /// over however many others: this node was given another place since. In a ring it does somewhere, for all have the
    /// same bytes.
    fn comes_after(&self) -> bool {
        let standing = self.states.borrow().standing;
        standing != Standing::Seeking && !standing.is_ahead_of(&self.place)
    }

    /// Waits until something has come since the last call, or until it would.
    pub async fn wait(&mut self) {
        tokio::select! {
            biased;
            () = self.tap.wait() => {}
            () = self.aside.stepped() => {}
            // With another source there is another second.
            Ok(()) = self.states.changed() => {}
            () = sleep(STILL) => self.is_in_ring = self.comes_after(),
        }
    }
}
