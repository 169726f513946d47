//! The stream to one follower, for an object that this node is still receiving.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oci::ByteRange;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::pulls::{Pull, Sharing, State};
use crate::body::read::{GrowingReader, RangeReader, unless_silent};
use crate::body::send_memory::Share;
use crate::flights::pull_rules::Role;
use crate::object_stream::{BodyError, ObjectStream, Pieces};
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
    ingest: Growing,
    /// The latest bytes received.
    tail: TailReader,
    opened: Instant,
    position: ChainPosition,
    states: watch::Receiver<State>,
    /// No bytes have arrived for a while, and this node no longer precedes the follower.
    is_in_ring: bool,
}

impl FollowerStream {
    /// Opens the stream of a pull for the follower at `position`.
    pub fn open(pull: &Pull, ingest: Growing, position: ChainPosition) -> Self {
        Self {
            ingest,
            tail: pull.tail.reader(),
            opened: Instant::now(),
            position,
            states: pull.states(),
            is_in_ring: false,
        }
    }

    /// Why the follower should use another source, if it should.
    fn eviction(&self) -> Option<Eviction> {
        let state = *self.states.borrow();
        if state.sharing == Sharing::Private {
            return Some(Eviction::Private);
        }
        let is_slow_node = state.evicted.is_some_and(|at| at >= self.opened);
        let ring = self.is_in_ring.then_some(Eviction::Ring);
        is_slow_node.then_some(Eviction::SlowNode).or(ring)
    }

    /// Whether this node may be downstream of the follower, which has all bytes that this node has. This node may have
    /// a new position by now. The nodes of a ring cannot all precede their followers, so this is true for one of them.
    fn comes_after(&self) -> bool {
        let role = self.states.borrow().role;
        role != Role::Undecided && !role.is_ahead_of(&self.position)
    }

    /// Waits until bytes have arrived since the last call, or the stream should end.
    async fn wait(&mut self) {
        tokio::select! {
            biased;
            () = self.tail.wait() => {}
            // With another source, another second may pass.
            Ok(()) = self.states.changed() => {}
            () = sleep(STALLED_AFTER) => self.is_in_ring = self.comes_after(),
        }
    }
}

impl ObjectStream for FollowerStream {
    fn stream(self: Box<Self>, range: ByteRange, share: Arc<Share>) -> Pieces {
        let reader = GrowingReader::new(self.ingest.clone(), share);
        let follower = *self;
        FollowerReader { follower, reader }.pieces(range)
    }

    fn again(&self) -> Box<dyn ObjectStream> {
        Box::new(self.clone())
    }

    fn takes_memory(&self) -> bool {
        true
    }
}

/// Reads an object that is still being received: the latest bytes from memory, the others from the file.
struct FollowerReader {
    follower: FollowerStream,
    reader: GrowingReader,
}

impl FollowerReader {
    async fn first_bytes(&mut self, range: &ByteRange) -> Result<Bytes, BodyError> {
        loop {
            if let Some(why) = self.follower.eviction()
                && !self.reader.is_complete()
            {
                return Err(BodyError::of_stream(why));
            }
            if let Some(mut bytes) = self.follower.tail.read(range.start) {
                bytes.truncate(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
                return Ok(bytes);
            }
            let written = tokio::select! {
                biased;
                written = self.reader.grown(range.start) => written?,
                () = self.follower.wait() => continue,
            };
            return self.reader.read(range, written).await;
        }
    }
}

impl RangeReader for FollowerReader {
    async fn next(&mut self, range: &ByteRange) -> Result<Bytes, BodyError> {
        unless_silent(self.first_bytes(range)).await
    }
}
