//! What was tried for each object that the node's own client pulls, so that it goes upstream in time.
//!
//! containerd gives up after three bodies in a row that end without a byte, and upstream may need those. So this mirror
//! ends one at most, on purpose ([`Attempts::may_requeue`]). And peers may fail the client twice, whoever they are,
//! unless much came between: identities are free.
//!
//! What containerd received whole and did not commit was wrong. Nobody knows which byte, so whoever sent some of it is not
//! asked for that object again.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use oci::Digest;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::growing::Progress;
use crate::{Growing, IngestId, IngestStage, PeerId};

/// After this many peers that broke, stalled, or sent wrong bytes, the client goes upstream.
const MAX_FAILURES: u8 = 2;
/// This many bytes from peers after a failure make it count no more.
const CLEARED_BY: u64 = 1024 * 1024;
/// What was tried counts no more after this time without a request or a byte.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// The most objects to remember.
const MAX_OBJECTS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// The most peers to remember that sent parts of one object. A pull goes on with few.
const MAX_SENDERS: usize = 8;

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
    /// What containerd fills now, and what becomes of it.
    ingest: Option<(IngestId, watch::Receiver<Progress>)>,
    /// Peers that sent some of it.
    senders: Vec<PeerId>,
    /// Its last byte came from a peer.
    is_whole: bool,
    /// How often it was whole and not committed.
    wrong: u8,
}

impl Default for Attempts {
    fn default() -> Self {
        Self(Mutex::new(State {
            is_requeued: false,
            failures: 0,
            received: 0,
            used: Instant::now(),
            ingest: None,
            senders: Vec::new(),
            is_whole: false,
            wrong: 0,
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

    /// Records who sent bytes, and whether they were the last ones of the object.
    pub fn sent_by(&self, peer: &PeerId, are_last: bool) {
        let mut state = self.0.lock();
        state.is_whole |= are_last;
        if state.senders.last() != Some(peer)
            && state.senders.len() < MAX_SENDERS
            && !state.senders.contains(peer)
        {
            state.senders.push(peer.clone());
        }
    }

    /// Records which ingest the client fills from now on. Returns the peers that sent what filled the one before, if that was
    /// whole and was not committed.
    fn fills(&self, id: IngestId, growing: &Growing) -> Vec<PeerId> {
        let mut state = self.0.lock();
        if state.ingest.as_ref().is_some_and(|(known, _)| *known == id) {
            return Vec::new();
        }
        let before = state.ingest.replace((id, growing.outcome()));
        let was_whole = std::mem::take(&mut state.is_whole);
        let senders = std::mem::take(&mut state.senders);
        let is_committed =
            |progress: &watch::Receiver<Progress>| progress.borrow().stage == IngestStage::Complete;
        match before {
            Some((_, progress)) if was_whole && !is_committed(&progress) => {
                state.wrong = state.wrong.saturating_add(1);
                senders
            }
            _ => Vec::new(),
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
        let state = self.0.lock();
        state.failures >= MAX_FAILURES || state.wrong >= MAX_FAILURES
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
    /// The attempts at an object that a client requests now, to fill this ingest; and the peers of whose bytes it has just
    /// turned out that they were wrong.
    pub fn of(
        &self,
        digest: &Digest,
        (id, growing): (IngestId, &Growing),
    ) -> (Arc<Attempts>, Vec<PeerId>) {
        let mut all = self.0.lock();
        let attempts = all.get_or_insert_mut(digest.clone(), Arc::default);
        let wrong = attempts.fills(id, growing);
        let is_old = attempts.0.lock().used.elapsed() >= FORGOTTEN_AFTER;
        if is_old {
            *attempts = Arc::default();
            attempts.fills(id, growing);
        }
        attempts.0.lock().used = Instant::now();
        (attempts.clone(), wrong)
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
        let (_writer, growing) = ingest();
        let attempts = || all.of(&digest, (IngestId(1, 1), &growing)).0;
        for _ in 0..MAX_FAILURES {
            attempts().failed();
        }
        assert!(attempts().are_spent());
        tokio::time::advance(FORGOTTEN_AFTER).await;
        assert!(!attempts().are_spent());
    }

    fn ingest() -> (watch::Sender<Progress>, Growing) {
        let filling = Progress {
            written: 0,
            total: None,
            stage: IngestStage::Filling,
        };
        let (writer, progress) = watch::channel(filling);
        let file = std::fs::File::open("/dev/null").expect("there");
        (writer, Growing::new(Arc::new(file), progress))
    }

    #[tokio::test(start_paused = true)]
    async fn who_sent_what_was_not_committed_is_told() {
        let (all, digest) = (AttemptsByDigest::default(), Digest::sha256(b"layer"));
        let (one, two) = (PeerId::new("one"), PeerId::new("two"));
        let begin = |number| {
            let (writer, growing) = ingest();
            let (attempts, wrong) = all.of(&digest, (IngestId(number, 0), &growing));
            (writer, growing, attempts, wrong)
        };
        let (_writer, growing, attempts, wrong) = begin(1);
        assert_eq!(wrong, []);
        attempts.sent_by(&one, false);
        attempts.sent_by(&two, false);
        // Another range of the same ingest says nothing, even if it is the last one.
        let again = all.of(&digest, (IngestId(1, 0), &growing));
        assert_eq!(again.1, []);
        attempts.sent_by(&two, true);
        assert_eq!(all.of(&digest, (IngestId(1, 0), &growing)).1, []);
        // A pod that comes back late is told, too.
        tokio::time::advance(FORGOTTEN_AFTER * 10).await;
        let (_writer, _, attempts, wrong) = begin(2);
        assert_eq!(wrong, [one, two.clone()]);
        // What is broken off is not wrong.
        attempts.sent_by(&two, false);
        let (writer, _, attempts, wrong) = begin(3);
        assert_eq!(wrong, []);
        // What is committed, removed and pulled again was right.
        attempts.sent_by(&two, true);
        writer.send_modify(|progress| progress.stage = IngestStage::Complete);
        let (_writer, _, attempts, wrong) = begin(4);
        assert_eq!(wrong, []);
        assert!(!attempts.are_spent());
    }

    #[test]
    fn wrong_bytes_are_cleared_by_no_number_of_bytes() {
        let (all, digest) = (AttemptsByDigest::default(), Digest::sha256(b"layer"));
        for number in 0..=u64::from(MAX_FAILURES) {
            let (_writer, growing) = ingest();
            let (attempts, _) = all.of(&digest, (IngestId(number, 0), &growing));
            assert_eq!(attempts.are_spent(), number == u64::from(MAX_FAILURES));
            attempts.received(CLEARED_BY);
            attempts.sent_by(&PeerId::new(&number.to_string()), true);
        }
    }
}
