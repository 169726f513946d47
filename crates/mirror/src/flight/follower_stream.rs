//! The stream to one follower, for an object that this node is still receiving.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::pulls::{Pull, Sharing, State};
use crate::flights::pulling::Role;
use crate::tail_buffer::TailReader;
use crate::{ChainPosition, Growing};

/// Checks for a ring after this time without a byte.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// Why a follower should use another source.
#[derive(Debug, thiserror::Error)]
pub enum Eviction {
    #[error("this node, or what upstream gives it, is slow: others will be faster")]
    SlowNode,
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
    opened: Instant,
    position: ChainPosition,
    states: watch::Receiver<State>,
    /// No bytes arrived for a while, and this node no longer precedes the follower.
    is_in_ring: bool,
}

/// A pull that serves a follower.
#[derive(Debug)]
pub struct SharedPull {
    /// Bytes of the whole object.
    pub size: u64,
    pub growing: Growing,
    pub pull: Arc<Pull>,
}

impl SharedPull {
    /// Opens a stream for the follower at `position`.
    pub fn open(self, position: ChainPosition) -> FollowerStream {
        FollowerStream {
            tail: self.pull.tail.reader(),
            opened: Instant::now(),
            position,
            states: self.pull.states(),
            is_in_ring: false,
        }
    }
}

impl FollowerStream {
    /// Why the follower should use another source, if it should.
    pub fn eviction(&self) -> Option<Eviction> {
        let state = *self.states.borrow();
        if state.sharing == Sharing::Private {
            return Some(Eviction::Private);
        }
        let is_slow_node = state.evicted.is_some_and(|at| at >= self.opened);
        let ring = self.is_in_ring.then_some(Eviction::Ring);
        is_slow_node.then_some(Eviction::SlowNode).or(ring)
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
            // With another source another second may pass.
            Ok(()) = self.states.changed() => {}
            () = sleep(STALLED_AFTER) => self.is_in_ring = self.comes_after(),
        }
    }
}
