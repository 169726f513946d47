//! The results of earlier requests to peers: which peers answer, how fast, and which are in back-off.

mod in_flight;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use oci::Key;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::activity::Changes;
use crate::rate::Throughput;
use crate::{Candidate, PeerId};

pub use in_flight::InFlight;

/// The first back-off after a failure. It doubles with each further failure, up to [`BACK_OFF_MAX`].
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
/// The longest back-off.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// A peer that lacked an announced object is not asked for that object again for this long. Its announcement may
/// outlive the object by minutes.
const LACKING: Duration = Duration::from_secs(30);
/// The time for which a peer whose uploads are all in use is not asked for the object again.
const BUSY: Duration = Duration::from_secs(2);
/// The number of consecutive announced objects that a peer lacked after which it backs off for all objects.
const MAX_FALSE_ANNOUNCEMENTS: u32 = 4;
/// The time after which the count of announced objects that a peer lacked starts again.
const LACKED_LATELY: Duration = Duration::from_secs(10 * 60);
/// The most peers to remember. The least recently used is evicted first.
const MAX_PEERS: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// The most (peer, key) pairs to remember as lacking.
const MAX_LACKING: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
/// [`Peers::backed_off`] looks at this many of the most recently used peers.
const MAX_RECENT: usize = 256;
/// [`Peers::backed_off`] returns at most this many peers.
const MAX_BACKED_OFF: usize = 8;
/// The most keys with excluded peers to remember, and the most such peers of one key.
const MAX_EXCLUDED_KEYS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
const MAX_EXCLUDED: usize = 16;
/// A peer is excluded for this long.
const EXCLUDED_FOR: Duration = Duration::from_secs(24 * 3600);
/// The assumed latency of a peer that has not been asked yet.
const LATENCY_GUESS: Duration = Duration::from_millis(20);

/// A measured latency is valid for this long.
const LATENCY_FRESH: Duration = Duration::from_secs(30);

/// How a peer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It could not be connected, did not answer in time, or sent an invalid answer.
    #[error("no connection, or no answer of use")]
    Failed,
    #[error("its body broke, stalled or crawled")]
    Broke,
    #[error("it serves as many as it may")]
    Busy,
    #[error("it does not have what it announced")]
    Lacking,
    #[error("it sent bytes that are not what was asked for")]
    Wrong,
}

#[derive(Debug)]
struct Record {
    addresses: Arc<[SocketAddr]>,
    /// It has sent a good body, and has not failed since.
    has_delivered: bool,
    failures: u32,
    false_announcements: u32,
    backed_off_until: Option<Instant>,
    /// The smoothed time to the head of an answer, and when it was last measured.
    latency: Duration,
    measured: Instant,
    in_flight: u32,
    /// The bytes that it has sent.
    received: Arc<Throughput>,
    /// The smoothed rate of its large answers, in bytes per second; 0: none has come.
    measured_rate: u64,
    /// The number of announced objects that it lacked, and since when.
    lacked: u32,
    lacked_since: Instant,
    last_error: Option<(String, SystemTime)>,
}

/// What is known of a peer, to be shown.
#[derive(Clone, Debug)]
pub struct KnownPeer {
    pub peer: PeerId,
    pub addresses: Arc<[SocketAddr]>,
    pub backed_off_for: Option<Duration>,
    pub last_error: Option<(String, SystemTime)>,
    pub requests: u32,
    pub latency: Duration,
    /// The bytes that it has sent in all, and their present or last rate.
    pub received: u64,
    pub bytes_per_second: u64,
    /// The number of announced objects that it lacked lately.
    pub lacked: u32,
}

/// The records of all peers, shared by all requests.
#[derive(Debug)]
pub struct Peers {
    records: Mutex<LruCache<PeerId, Record>>,
    lacking: Mutex<LruCache<(PeerId, Key), Instant>>,
    /// Peers whose bytes of an object were not committed, and since when.
    excluded: Mutex<LruCache<Key, Vec<(PeerId, Instant)>>>,
    /// The bytes sent to peers, by their address: a request identifies a peer only by that.
    sent: Mutex<LruCache<IpAddr, Arc<AtomicU64>>>,
    changes: Changes,
}

impl Default for Peers {
    fn default() -> Self {
        Self::new(Changes::default())
    }
}

impl Peers {
    pub fn new(changes: Changes) -> Self {
        Self {
            records: Mutex::new(LruCache::new(MAX_PEERS)),
            lacking: Mutex::new(LruCache::new(MAX_LACKING)),
            excluded: Mutex::new(LruCache::new(MAX_EXCLUDED_KEYS)),
            sent: Mutex::new(LruCache::new(MAX_PEERS)),
            changes,
        }
    }

    /// Whether this candidate should be asked for this key now.
    pub fn may_ask(&self, candidate: &Candidate, key: &Key, now: Instant) -> bool {
        let backed_off = self
            .records
            .lock()
            .get(&candidate.peer)
            .is_some_and(|record| record.is_backed_off(now));
        let pair = (candidate.peer.clone(), key.clone());
        !backed_off
            && !self.excluded(key, now).contains(&candidate.peer)
            && self
                .lacking
                .lock()
                .peek(&pair)
                .is_none_or(|until| *until <= now)
    }

    /// Excludes a peer from requests for a key: the bytes that it delivered were not committed.
    pub fn exclude(&self, peer: &PeerId, key: &Key) {
        let mut excluded = self.excluded.lock();
        let peers = excluded.get_or_insert_mut(key.clone(), Vec::new);
        peers.retain(|(other, _)| other != peer);
        if peers.len() >= MAX_EXCLUDED {
            peers.remove(0);
        }
        peers.push((peer.clone(), Instant::now()));
    }

    /// Admits all peers to requests for a key again: upstream has failed, and there is no other source.
    pub fn readmit(&self, key: &Key) {
        self.excluded.lock().pop(key);
    }

    /// The peers excluded from requests for a key.
    pub fn excluded(&self, key: &Key, now: Instant) -> Vec<PeerId> {
        let excluded = self.excluded.lock();
        let peers = excluded.peek(key).into_iter().flatten();
        let valid = peers.filter(|(_, at)| now.saturating_duration_since(*at) < EXCLUDED_FOR);
        valid.map(|(peer, _)| peer.clone()).collect()
    }

    /// Returns some of the peers in back-off, from the most recently used.
    pub fn backed_off(&self, now: Instant) -> Vec<PeerId> {
        let records = self.records.lock();
        let lately = records.iter().take(MAX_RECENT);
        let backed_off = lately.filter(|(_, record)| record.is_backed_off(now));
        backed_off
            .take(MAX_BACKED_OFF)
            .map(|(peer, _)| peer.clone())
            .collect()
    }

    /// The expected time until the head of an answer.
    ///
    /// A measurement older than [`LATENCY_FRESH`] is ignored, so a peer that was slow once gets another chance.
    pub fn latency(&self, peer: &PeerId) -> Duration {
        let records = self.records.lock();
        let fresh = records
            .peek(peer)
            .filter(|record| record.measured.elapsed() < LATENCY_FRESH);
        fresh.map_or(LATENCY_GUESS, |record| record.latency)
    }

    /// The expected latency, multiplied by the requests that are open with the peer. Lower is better.
    pub fn cost(&self, peer: &PeerId) -> Duration {
        let in_flight = self
            .records
            .lock()
            .peek(peer)
            .map_or(0, |record| record.in_flight);
        self.latency(peer) * (1 + in_flight)
    }

    /// Records where a peer's registry listens before it is asked for anything. Does not count as use.
    pub fn introduce(&self, candidate: &Candidate) {
        let mut records = self.records.lock();
        if records.peek(&candidate.peer).is_none() {
            records.push(candidate.peer.clone(), Record::new());
            records.demote(&candidate.peer);
        }
        if let Some(record) = records.peek_mut(&candidate.peer) {
            record.addresses = candidate.addresses.clone();
        }
    }

    /// Whether a peer has sent a good body, and has not failed since.
    pub fn has_delivered(&self, peer: &PeerId) -> bool {
        let records = self.records.lock();
        records
            .peek(peer)
            .is_some_and(|record| record.has_delivered)
    }

    /// The addresses of a peer's registry, as last heard.
    pub fn addresses(&self, peer: &str) -> Option<Arc<[SocketAddr]>> {
        let records = self.records.lock();
        records
            .peek(&PeerId::new(peer))
            .map(|record| record.addresses.clone())
    }

    /// Counts a request to the candidate as in flight until the guard is dropped.
    pub fn begin(self: &Arc<Self>, candidate: &Candidate) -> InFlight {
        let mut records = self.records.lock();
        let record = records.get_or_insert_mut(candidate.peer.clone(), Record::new);
        record.addresses = candidate.addresses.clone();
        record.in_flight += 1;
        InFlight::new(
            self.clone(),
            candidate.peer.clone(),
            record.received.clone(),
        )
    }

    /// The counter of bytes sent to the peer at this address.
    pub fn sent_to(&self, ip: IpAddr) -> Arc<AtomicU64> {
        self.sent.lock().get_or_insert(ip, Arc::default).clone()
    }

    /// Bytes sent to peers, by their address.
    pub fn sent(&self) -> Vec<(IpAddr, u64)> {
        let sent = self.sent.lock();
        let count = |(ip, count): (&IpAddr, &Arc<AtomicU64>)| (*ip, count.load(Ordering::Relaxed));
        sent.iter().map(count).collect()
    }

    /// What is known of the most recently used peers, `most` of them.
    pub fn known(&self, most: usize) -> Vec<KnownPeer> {
        let (records, now) = (self.records.lock(), Instant::now());
        let known = |(peer, record): (&PeerId, &Record)| KnownPeer {
            peer: peer.clone(),
            addresses: record.addresses.clone(),
            backed_off_for: record.backed_off_until.and_then(|until| {
                let left = until.saturating_duration_since(now);
                (left > Duration::ZERO).then_some(left)
            }),
            last_error: record.last_error.clone(),
            requests: record.in_flight,
            latency: record.latency,
            received: record.received.total(),
            bytes_per_second: record.received.rate().max(record.measured_rate),
            lacked: match now.duration_since(record.lacked_since) < LACKED_LATELY {
                true => record.lacked,
                false => 0,
            },
        };
        records.iter().take(most).map(known).collect()
    }

    /// Records the error of a peer, to be shown.
    pub fn note_error(&self, peer: &PeerId, what: &str) {
        if let Some(record) = self.records.lock().peek_mut(peer) {
            record.last_error = Some((what.to_owned(), SystemTime::now()));
        }
    }

    pub fn report_fault(&self, peer: &PeerId, key: &Key, fault: Fault, now: Instant) {
        let pause = match fault {
            Fault::Failed => None,
            Fault::Busy => Some(BUSY),
            Fault::Broke | Fault::Lacking | Fault::Wrong => Some(LACKING),
        };
        if let Some(pause) = pause {
            let pair = (peer.clone(), key.clone());
            self.lacking.lock().put(pair, now + pause);
        }
        let mut records = self.records.lock();
        let Some(record) = records.get_mut(peer) else {
            return;
        };
        if fault != Fault::Failed {
            record.last_error = Some((fault.to_string(), SystemTime::now()));
        }
        if fault == Fault::Lacking {
            if now.saturating_duration_since(record.lacked_since) >= LACKED_LATELY {
                (record.lacked, record.lacked_since) = (0, now);
            }
            record.lacked += 1;
        }
        match fault {
            // It is alive and its data is right.
            Fault::Busy => return,
            Fault::Lacking if record.false_announcements + 1 < MAX_FALSE_ANNOUNCEMENTS => {
                record.false_announcements += 1;
                return;
            }
            Fault::Lacking | Fault::Failed | Fault::Broke | Fault::Wrong => {}
        }
        // An event that breaks ten streams is one failure.
        if record.is_backed_off(now) {
            return;
        }
        let backed_off = BACK_OFF_FIRST * 2u32.saturating_pow(record.failures.min(16));
        record.failures += 1;
        record.has_delivered = false;
        record.false_announcements = 0;
        record.backed_off_until = Some(now + backed_off.min(BACK_OFF_MAX));
        drop(records);
        self.changes.tell();
        tracing::debug!(%peer, ?fault, "peer is in back-off");
    }
}

impl Record {
    fn new() -> Self {
        Self {
            addresses: Arc::new([]),
            has_delivered: false,
            failures: 0,
            false_announcements: 0,
            backed_off_until: None,
            latency: LATENCY_GUESS,
            measured: Instant::now(),
            in_flight: 0,
            received: Arc::default(),
            measured_rate: 0,
            lacked: 0,
            lacked_since: Instant::now(),
            last_error: None,
        }
    }

    fn is_backed_off(&self, now: Instant) -> bool {
        self.backed_off_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests;
