//! What is known of peers from dealing with them: who answers, how fast, and who is put aside for a while.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use oci::Key;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{Candidate, PeerId};

/// A peer that failed is put aside for this long at first, and twice as long each further time…
const ASIDE_FIRST: Duration = Duration::from_secs(1);
/// …up to this.
const ASIDE_MOST: Duration = Duration::from_secs(60);
/// For how long a peer is not asked again for what it announced and lacked. Its announcement may stand for minutes.
const LACKING: Duration = Duration::from_secs(30);
/// Objects lacked in a row that make a liar of a peer; it is then put aside for everything.
const LIES: u32 = 4;
/// Peers remembered. More than a large cluster has; the least recently met are forgotten first.
const MOST_PEERS: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// (peer, key) pairs remembered as lacking.
const MOST_LACKING: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
/// Peers that are looked at for those put aside, and of these so many are told.
const MOST_LATELY: usize = 256;
const MOST_ASIDE: usize = 8;
/// What a peer that has not been asked yet is taken to need for an answer.
const LATENCY_GUESS: Duration = Duration::from_millis(20);

/// For how long a measured time counts.
const LATENCY_FRESH: Duration = Duration::from_secs(30);

/// How a peer disappointed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It could not be connected, did not answer in time, or answered nonsense.
    Failed,
    /// Its answer began well and its body broke, stalled or crawled.
    Broke,
    /// It does not have what it announced.
    Lacking,
    /// It sent bytes that are not what was asked for.
    Wrong,
}

#[derive(Debug)]
struct Record {
    addresses: Arc<[SocketAddr]>,
    failures: u32,
    lies: u32,
    aside_until: Option<Instant>,
    /// Smoothed time to the head of an answer, and when it was last heard of.
    latency: Duration,
    measured: Instant,
    in_flight: u32,
}

/// The book of peers, shared by all requests.
#[derive(Debug)]
pub struct Peers {
    records: Mutex<LruCache<PeerId, Record>>,
    lacking: Mutex<LruCache<(PeerId, Key), Instant>>,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            records: Mutex::new(LruCache::new(MOST_PEERS)),
            lacking: Mutex::new(LruCache::new(MOST_LACKING)),
        }
    }
}

impl Peers {
    /// Whether this candidate is worth asking for this key now.
    pub fn may_ask(&self, candidate: &Candidate, key: &Key, now: Instant) -> bool {
        let aside = self
            .records
            .lock()
            .get(&candidate.peer)
            .is_some_and(|record| record.is_aside(now));
        let pair = (candidate.peer.clone(), key.clone());
        !aside
            && self
                .lacking
                .lock()
                .peek(&pair)
                .is_none_or(|until| *until <= now)
    }

    /// Some of the peers that are put aside: of those met lately.
    pub fn aside(&self, now: Instant) -> Vec<PeerId> {
        let records = self.records.lock();
        let lately = records.iter().take(MOST_LATELY);
        let aside = lately.filter(|(_, record)| record.is_aside(now));
        aside
            .take(MOST_ASIDE)
            .map(|(peer, _)| peer.clone())
            .collect()
    }

    /// The time that an answer's head is likely to take.
    /// What was measured long ago says nothing: who was slow once gets another chance.
    pub fn latency(&self, peer: &PeerId) -> Duration {
        let records = self.records.lock();
        let fresh = records
            .peek(peer)
            .filter(|record| record.measured.elapsed() < LATENCY_FRESH);
        fresh.map_or(LATENCY_GUESS, |record| record.latency)
    }

    /// Lower is better: the likely time, times the requests that we already have with the peer.
    pub fn cost(&self, peer: &PeerId) -> Duration {
        let in_flight = self
            .records
            .lock()
            .peek(peer)
            .map_or(0, |record| record.in_flight);
        self.latency(peer) * (1 + in_flight)
    }

    /// Where a peer's registry listens, as last heard.
    pub fn addresses(&self, peer: &str) -> Option<Arc<[SocketAddr]>> {
        let records = self.records.lock();
        records
            .peek(&PeerId::new(peer))
            .map(|record| record.addresses.clone())
    }

    /// A request to the candidate begins; it counts as in flight until the guard is dropped.
    pub fn begin(self: &Arc<Self>, candidate: &Candidate) -> InFlight {
        let mut records = self.records.lock();
        let record = records.get_or_insert_mut(candidate.peer.clone(), Record::new);
        record.addresses = candidate.addresses.clone();
        record.in_flight += 1;
        InFlight {
            peers: self.clone(),
            peer: candidate.peer.clone(),
            asked: Instant::now(),
            answered: false,
        }
    }

    pub fn disappointed(&self, peer: &PeerId, key: &Key, fault: Fault, now: Instant) {
        if fault != Fault::Failed {
            self.lacking
                .lock()
                .put((peer.clone(), key.clone()), now + LACKING);
        }
        let mut records = self.records.lock();
        let Some(record) = records.get_mut(peer) else {
            return;
        };
        match fault {
            Fault::Lacking if record.lies + 1 < LIES => {
                record.lies += 1;
                return;
            }
            Fault::Lacking | Fault::Failed | Fault::Broke | Fault::Wrong => {}
        }
        // One event that breaks ten streams is one failure.
        if record.is_aside(now) {
            return;
        }
        let aside = ASIDE_FIRST * 2u32.saturating_pow(record.failures.min(16));
        record.failures += 1;
        record.lies = 0;
        record.aside_until = Some(now + aside.min(ASIDE_MOST));
        tracing::debug!(%peer, ?fault, "peer put aside");
    }
}

impl Record {
    fn new() -> Self {
        Self {
            addresses: Arc::new([]),
            failures: 0,
            lies: 0,
            aside_until: None,
            latency: LATENCY_GUESS,
            measured: Instant::now(),
            in_flight: 0,
        }
    }

    fn is_aside(&self, now: Instant) -> bool {
        self.aside_until.is_some_and(|until| now < until)
    }
}

/// A request on its way to a peer.
#[derive(Debug)]
pub struct InFlight {
    peers: Arc<Peers>,
    peer: PeerId,
    asked: Instant,
    answered: bool,
}

impl InFlight {
    /// The peer has begun to answer. Returns how long that took.
    pub fn answered(&mut self, now: Instant) -> Duration {
        let after = now.saturating_duration_since(self.asked);
        self.answered = true;
        if let Some(record) = self.peers.records.lock().get_mut(&self.peer) {
            record.latency = (record.latency * 7 + after) / 8;
            record.measured = now;
        }
        after
    }
}

impl InFlight {
    /// The answer was good to its last byte: what was held against the peer is forgotten.
    pub fn finished(&self) {
        if let Some(record) = self.peers.records.lock().get_mut(&self.peer) {
            record.failures = 0;
            record.lies = 0;
            record.aside_until = None;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut records = self.peers.records.lock();
        let Some(record) = records.peek_mut(&self.peer) else {
            return;
        };
        record.in_flight = record.in_flight.saturating_sub(1);
        // Given up on because another was quicker: it takes at least this long, and comes after those that do not.
        if !self.answered {
            record.latency = record.latency.max(self.asked.elapsed() * 2);
            record.measured = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use oci::Digest;

    use super::*;
    use crate::Holding;

    fn candidate(name: &str) -> Candidate {
        Candidate {
            peer: PeerId::new(name),
            addresses: Arc::new([SocketAddr::from(([127, 0, 0, 1], 1))]),
            holding: Holding::Complete,
            zone: None,
        }
    }

    fn key(text: &str) -> Key {
        Key::Digest(Digest::sha256(text.as_bytes()))
    }

    #[test]
    fn a_failure_puts_aside_for_everything_and_longer_each_time() {
        let (peers, a, mut now) = (Arc::new(Peers::default()), candidate("a"), Instant::now());
        let _in_flight = peers.begin(&a);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            peers.disappointed(&a.peer, &key("x"), Fault::Failed, now);
            now += Duration::from_secs(seconds) - Duration::from_millis(1);
            assert!(
                !peers.may_ask(&a, &key("y"), now),
                "still aside after {seconds} s"
            );
            now += Duration::from_millis(1);
            assert!(peers.may_ask(&a, &key("y"), now), "back after {seconds} s");
        }
        peers.begin(&a).finished();
        peers.disappointed(&a.peer, &key("x"), Fault::Failed, now);
        assert!(
            peers.may_ask(&a, &key("y"), now + ASIDE_FIRST),
            "an answer wipes the slate"
        );
    }

    #[test]
    fn one_event_that_breaks_many_streams_is_one_failure() {
        let (peers, a, now) = (Arc::new(Peers::default()), candidate("a"), Instant::now());
        let _in_flight = peers.begin(&a);
        for stream in 0..10 {
            peers.disappointed(&a.peer, &key(&stream.to_string()), Fault::Broke, now);
        }
        assert!(!peers.may_ask(&a, &key("y"), now));
        assert!(peers.may_ask(&a, &key("y"), now + ASIDE_FIRST));
        assert!(
            !peers.may_ask(&a, &key("3"), now + ASIDE_FIRST),
            "what broke is not asked for again at once"
        );
    }

    #[test]
    fn lacking_one_object_costs_that_object_lacking_many_costs_all() {
        let (peers, a, now) = (Arc::new(Peers::default()), candidate("a"), Instant::now());
        let _in_flight = peers.begin(&a);
        peers.disappointed(&a.peer, &key("x"), Fault::Lacking, now);
        assert!(!peers.may_ask(&a, &key("x"), now) && peers.may_ask(&a, &key("y"), now));
        let now = now + LACKING;
        assert!(peers.may_ask(&a, &key("x"), now));
        for lie in 1..LIES {
            peers.disappointed(&a.peer, &key(&lie.to_string()), Fault::Lacking, now);
        }
        assert!(!peers.may_ask(&a, &key("y"), now));
    }

    #[test]
    fn the_quick_and_idle_come_first() {
        let peers = Arc::new(Peers::default());
        let (a, b) = (candidate("a"), candidate("b"));
        let mut busy = peers.begin(&a);
        assert!(peers.cost(&b.peer) < peers.cost(&a.peer), "b is idle");
        busy.answered(busy.asked + Duration::from_millis(1));
        drop(busy);
        assert!(peers.cost(&a.peer) < peers.cost(&b.peer), "a is quick");
    }

    #[test]
    fn who_was_given_up_on_comes_last() {
        let peers = Arc::new(Peers::default());
        let (a, b) = (candidate("a"), candidate("b"));
        let mut slow = peers.begin(&a);
        slow.asked -= Duration::from_millis(100);
        drop(slow);
        assert!(peers.latency(&a.peer) >= Duration::from_millis(200));
        assert!(peers.cost(&b.peer) < peers.cost(&a.peer));
    }
}
