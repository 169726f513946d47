//! The stream to one follower, for an object that this node is still receiving.

use std::sync::Arc;
use std::time::Duration;

use oci::{ByteRange, Digest};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Shared;
use super::follower_lag::{FollowerLag, SMALL_LAG, WINDOW, is_starved};
use super::pulls::{Pull, Role, Sharing, State};
use super::slow_state::EvictionSignal;
use crate::tail_buffer::TailReader;
use crate::{ChainPosition, Growing, PullProgress, Stage};

/// Checks for a ring after this time without a byte.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// Why a follower should use another source.
#[derive(Debug, thiserror::Error)]
pub enum Eviction {
    #[error("this node is slow and stops serving incomplete objects")]
    SlowState,
    #[error("no bytes arrive, and this node may be downstream of its own follower")]
    Ring,
    #[error("what arrives now took credentials, and is for this node alone")]
    Private,
}

/// The stream to one follower.
#[derive(Clone, Debug)]
pub struct FollowerStream {
    /// The latest bytes received.
    pub tail: TailReader,
    /// The range still to be handed to the follower.
    left: watch::Sender<ByteRange>,
    eviction: EvictionSignal,
    position: ChainPosition,
    states: watch::Receiver<State>,
    /// No bytes arrived for a while, and this node no longer precedes the follower.
    is_in_ring: bool,
}

/// A pull that serves a follower.
#[derive(Debug)]
pub struct SharedPull {
    pub digest: Digest,
    /// Bytes of the whole object.
    pub size: u64,
    pub growing: Growing,
    pub pull: Arc<Pull>,
}

impl SharedPull {
    /// Opens a stream for the follower at `position` from `offset` on, and watches its lag.
    pub fn open(
        self,
        shared: &Arc<Shared>,
        offset: u64,
        position: ChainPosition,
    ) -> FollowerStream {
        let (tail, states) = (self.pull.tail.reader(), self.pull.states());
        let (left, left_of_it) = watch::channel(offset..self.size);
        // No follower can lag by more than the whole object.
        if self.size > SMALL_LAG {
            shared.spawn(self.watch(shared.clone(), position, left_of_it));
        }
        FollowerStream {
            tail,
            left,
            eviction: shared.slow_state.since(),
            position,
            states,
            is_in_ring: false,
        }
    }

    /// Reports a follower that is too slow.
    ///
    /// A body cannot tell by itself: it is polled only once the connection has taken the bytes before.
    async fn watch(
        self,
        shared: Arc<Shared>,
        position: ChainPosition,
        left: watch::Receiver<ByteRange>,
    ) {
        let mut lag = FollowerLag::new(Instant::now());
        let mut ticks = interval(WINDOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Until the body is dropped, or the object is complete.
        while left.has_changed().is_ok() && self.growing.progress().stage == Stage::Filling {
            let now = ticks.tick().await;
            let left = left.borrow().clone();
            let available = self.pull.position(&self.growing).min(left.end);
            if let Some(taken) = lag.check(now, available, left.start) {
                lag.forget();
                let rate = shared.rate.lock().recent_rate(now);
                if is_starved(taken, rate, shared.uploads.upload_rate(now)) {
                    continue;
                }
                tracing::debug!(digest = %self.digest, %position, rate, "a follower is too slow");
                shared.metrics.flights_slow_followers.inc();
                let progress = PullProgress::FollowerTooSlow { position, rate };
                shared.flights.report(&self.digest, progress);
            }
        }
    }
}

impl FollowerStream {
    /// Records the range still to be handed to the follower.
    pub fn left(&self, left: &ByteRange) {
        self.left.send_replace(left.clone());
    }

    /// Why the follower should use another source, if it should.
    pub fn eviction(&self) -> Option<Eviction> {
        let is_slow_node = self.eviction.is_raised();
        if self.states.borrow().sharing == Sharing::Private {
            return Some(Eviction::Private);
        }
        let ring = self.is_in_ring.then_some(Eviction::Ring);
        is_slow_node.then_some(Eviction::SlowState).or(ring)
    }

    /// Whether this node may be downstream of the follower, which has all bytes that this node has. This node may have
    /// got another position since. In a ring all nodes have the same bytes, so this holds for one of them.
    fn comes_after(&self) -> bool {
        let role = self.states.borrow().role;
        role != Role::Undecided && !role.is_ahead_of(&self.position)
    }

    /// Waits until bytes have arrived since the last call, or the stream should end.
    pub async fn wait(&mut self) {
        tokio::select! {
            biased;
            () = self.tail.wait() => {}
            () = self.eviction.raised() => {}
            // With another source another second may pass.
            Ok(()) = self.states.changed() => {}
            () = sleep(STALLED_AFTER) => self.is_in_ring = self.comes_after(),
        }
    }
}
