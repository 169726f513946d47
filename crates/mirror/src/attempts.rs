//! What was tried for each object that the node's own client pulls, so that it goes upstream in time.
//!
//! containerd gives up after three bodies in a row that end without a byte, and upstream may need those. So this mirror
//! ends one at most, on purpose ([`Attempts::may_requeue`]). And peers may fail the client twice, whoever they are,
//! unless much came between: identities are free.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use oci::Digest;
use parking_lot::Mutex;
use tokio::time::Instant;

/// After this many peers that broke, stalled, or sent wrong bytes, the client goes upstream.
const MAX_FAILURES: u8 = 2;
/// This many bytes from peers after a failure make it count no more.
const CLEARED_BY: u64 = 1024 * 1024;
/// What was tried counts no more after this time without a request or a byte.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// The most objects to remember.
const MAX_OBJECTS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// The attempts at one object.
#[derive(Debug)]
pub struct Attempts(Mutex<State>);

#[derive(Debug)]
struct State {
    is_requeued: bool,
    failures: u8,
    /// Bytes from peers since the last failure.
    received: u64,
    used: Instant,
}

impl Default for Attempts {
    fn default() -> Self {
        Self(Mutex::new(State {
            is_requeued: false,
            failures: 0,
            received: 0,
            used: Instant::now(),
        }))
    }
}

impl Attempts {
    /// Whether a body may end without a byte, so that containerd requeues its request: not twice between bytes.
    pub fn may_requeue(&self) -> bool {
        !self.0.lock().is_requeued
    }

    /// Records that a body ends without a byte.
    pub fn requeued(&self) {
        self.0.lock().is_requeued = true;
    }

    /// Records bytes from a peer.
    pub fn received(&self, bytes: u64) {
        let mut state = self.0.lock();
        state.is_requeued = false;
        state.received += bytes;
        state.used = Instant::now();
        if state.received >= CLEARED_BY {
            state.failures = 0;
        }
    }

    /// Records that a peer broke, stalled, or sent wrong bytes.
    pub fn failed(&self) {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        state.received = 0;
    }

    /// Whether peers have failed too often.
    pub fn are_spent(&self) -> bool {
        self.0.lock().failures >= MAX_FAILURES
    }
}

/// The attempts at all objects.
#[derive(Debug)]
pub struct AttemptsByDigest(Mutex<LruCache<Digest, Arc<Attempts>>>);

impl Default for AttemptsByDigest {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_OBJECTS)))
    }
}

impl AttemptsByDigest {
    /// The attempts at an object that a client requests now.
    pub fn of(&self, digest: &Digest) -> Arc<Attempts> {
        let mut all = self.0.lock();
        let attempts = all.get_or_insert_mut(digest.clone(), Arc::default);
        let is_old = attempts.0.lock().used.elapsed() >= FORGOTTEN_AFTER;
        if is_old {
            *attempts = Arc::default();
        }
        attempts.0.lock().used = Instant::now();
        attempts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_may_fail_twice_unless_much_comes_between() {
        let attempts = Attempts::default();
        attempts.failed();
        attempts.received(CLEARED_BY - 1);
        attempts.failed();
        assert!(attempts.are_spent(), "whoever they are");
        let attempts = Attempts::default();
        attempts.failed();
        attempts.received(CLEARED_BY);
        attempts.failed();
        assert!(!attempts.are_spent());
    }

    #[test]
    fn a_request_is_requeued_once_between_bytes() {
        let attempts = Attempts::default();
        assert!(attempts.may_requeue());
        attempts.requeued();
        assert!(!attempts.may_requeue());
        attempts.received(1);
        assert!(attempts.may_requeue());
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_pull_begins_anew() {
        let (all, digest) = (AttemptsByDigest::default(), Digest::sha256(b"layer"));
        for _ in 0..MAX_FAILURES {
            all.of(&digest).failed();
        }
        assert!(all.of(&digest).are_spent());
        tokio::time::advance(FORGOTTEN_AFTER).await;
        assert!(!all.of(&digest).are_spent());
    }
}
