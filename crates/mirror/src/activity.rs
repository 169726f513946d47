//! The pulls of this node's own clients: the running ones, and the results of the latest. Pieces of bodies are counted
//! without a lock.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use oci::{Digest, Origin, Reference};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Candidate;
use crate::UpstreamReason;
use crate::measured::{MeasuredObject, Measurements};
use crate::rate::Throughput;
use crate::time_saved::TimeSaved;

/// The most running pulls to list; the least recently requested one is dropped.
const MAX_RUNNING: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// The most finished pulls to remember.
const MAX_FINISHED: usize = 64;
/// A pull without a request or a byte for this long was given up. Without flights the mirror does not see what
/// containerd gets from upstream until it is complete.
const ABANDONED_AFTER: Duration = Duration::from_secs(10 * 60);

/// Notifies of changes that a snapshot shows. Bytes do not count.
#[derive(Clone, Debug)]
pub struct Changes(Arc<watch::Sender<u64>>);

impl Default for Changes {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Changes {
    pub fn tell(&self) {
        self.0
            .send_modify(|number| *number = number.wrapping_add(1));
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// The present source of a pull's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullSource {
    /// It is being looked for.
    Unknown,
    Local,
    Peer(Candidate),
    /// The client was sent there for this reason, or the mirror itself asks there.
    Upstream(UpstreamReason),
}

/// The bytes of a pull, by source.
#[derive(Debug, Default)]
pub struct BytesBySource {
    pub local: AtomicU64,
    pub peers: AtomicU64,
    /// The bytes from upstream, by the reason at the same position in [`UpstreamReason::ALL`].
    pub upstream: [AtomicU64; UpstreamReason::ALL.len()],
}

impl BytesBySource {
    pub fn add_upstream(&self, reason: UpstreamReason, bytes: u64) {
        if let Some(count) = self.upstream.get(reason as usize) {
            count.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

/// A pull of a client of this node: one object, whatever the number of requests.
#[derive(Debug)]
pub struct PullActivity {
    pub digest: Digest,
    pub origin: Option<Origin>,
    /// The reference of the client's first request.
    pub reference: Reference,
    pub started: Instant,
    pub started_at: SystemTime,
    pub bytes: BytesBySource,
    /// The bytes sent to the client.
    pub throughput: Throughput,
    /// The size of the whole object, in bytes; 0: unknown.
    size: AtomicU64,
    /// The offset after the latest byte.
    offset: AtomicU64,
    source: Mutex<PullSource>,
    /// The number of requests being answered.
    requests: AtomicUsize,
    changes: Changes,
}

impl PullActivity {
    pub fn size(&self) -> Option<u64> {
        Some(self.size.load(Ordering::Relaxed)).filter(|size| *size > 0)
    }

    pub fn set_size(&self, size: Option<u64>) {
        if let Some(size) = size {
            self.size.store(size, Ordering::Relaxed);
        }
    }

    pub fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    pub fn source(&self) -> PullSource {
        self.source.lock().clone()
    }

    pub fn set_source(&self, source: PullSource) {
        let mut current = self.source.lock();
        if *current != source {
            *current = source;
            drop(current);
            self.changes.tell();
        }
    }

    /// Records that the client has the bytes up to this offset, `bytes` of them new.
    pub fn reached(&self, offset: u64, bytes: u64) {
        self.offset.fetch_max(offset, Ordering::Relaxed);
        self.throughput.add(bytes);
    }

    fn is_whole(&self) -> bool {
        self.size().is_some_and(|size| self.offset() >= size)
    }

    fn is_abandoned(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0 && self.throughput.idle() >= ABANDONED_AFTER
    }
}

/// A pull that has ended.
#[derive(Clone, Debug)]
pub struct FinishedPull {
    pub pull: Arc<PullActivity>,
    pub took: Duration,
    /// Whether the object is known to be complete.
    pub is_complete: bool,
}

/// The pulls of a mirror.
#[derive(Debug)]
pub struct Activities {
    running: Mutex<LruCache<Digest, Arc<PullActivity>>>,
    finished: Mutex<VecDeque<FinishedPull>>,
    measurements: Measurements,
    pub saved: TimeSaved,
    changes: Changes,
}

impl Activities {
    pub fn new(changes: Changes) -> Self {
        Self {
            running: Mutex::new(LruCache::new(MAX_RUNNING)),
            finished: Mutex::default(),
            measurements: Measurements::default(),
            saved: TimeSaved::default(),
            changes,
        }
    }

    /// Records a request of a client of this node for an object.
    pub fn begin(
        self: &Arc<Self>,
        digest: &Digest,
        origin: Option<&Origin>,
        reference: &Reference,
    ) -> ActiveRequest {
        let new = || {
            Arc::new(PullActivity {
                digest: digest.clone(),
                origin: origin.cloned(),
                reference: reference.clone(),
                started: Instant::now(),
                started_at: SystemTime::now(),
                bytes: BytesBySource::default(),
                throughput: Throughput::default(),
                size: AtomicU64::new(0),
                offset: AtomicU64::new(0),
                source: Mutex::new(PullSource::Unknown),
                requests: AtomicUsize::new(0),
                changes: self.changes.clone(),
            })
        };
        let mut running = self.running.lock();
        let known = running.get(digest).cloned();
        let pull = known.clone().unwrap_or_else(new);
        pull.requests.fetch_add(1, Ordering::Relaxed);
        pull.throughput.add(0);
        let evicted = match known {
            Some(_) => None,
            None => running.push(digest.clone(), pull.clone()),
        };
        drop(running);
        if let Some((_, evicted)) = evicted {
            self.remember(evicted, false);
        }
        self.changes.tell();
        ActiveRequest {
            activities: self.clone(),
            pull,
        }
    }

    /// Records that an object has become part of the store.
    pub fn appeared(&self, digest: &Digest, size: u64) {
        let pull = self.running.lock().pop(digest);
        if let Some(pull) = pull {
            pull.set_size(Some(size));
            pull.offset.fetch_max(size, Ordering::Relaxed);
            self.remember(pull, true);
        }
    }

    /// The pull of an object, if it is running.
    pub fn get(&self, digest: &Digest) -> Option<Arc<PullActivity>> {
        self.running.lock().peek(digest).cloned()
    }

    /// The running pulls, the latest first.
    pub fn running(&self) -> Vec<Arc<PullActivity>> {
        let mut running = self.running.lock();
        let all = running.iter().map(|(_, pull)| pull.clone());
        let (abandoned, all): (Vec<_>, Vec<_>) = all.partition(|pull| pull.is_abandoned());
        for pull in &abandoned {
            running.pop(&pull.digest);
        }
        drop(running);
        for pull in abandoned {
            self.remember(pull, false);
        }
        all
    }

    /// The latest finished pulls, the last one first.
    pub fn finished(&self) -> Vec<FinishedPull> {
        self.finished.lock().iter().cloned().collect()
    }

    /// Records a measuring request that has ended.
    pub fn measured(&self, object: MeasuredObject) {
        self.measurements.add(object);
        self.changes.tell();
    }

    /// The latest measured objects, the last one first.
    pub fn measurements(&self) -> Vec<MeasuredObject> {
        self.measurements.latest()
    }

    fn remember(&self, pull: Arc<PullActivity>, is_complete: bool) {
        let took = pull.started.elapsed();
        let BytesBySource {
            peers, upstream, ..
        } = &pull.bytes;
        let upstream = upstream.iter().map(|count| count.load(Ordering::Relaxed));
        let peers = peers.load(Ordering::Relaxed);
        self.saved
            .add(peers, upstream.sum(), pull.started, pull.started + took);
        let mut finished = self.finished.lock();
        finished.truncate(MAX_FINISHED - 1);
        finished.push_front(FinishedPull {
            pull,
            took,
            is_complete,
        });
        drop(finished);
        self.changes.tell();
    }
}

/// A request that is being answered. Dropping it ends its part of the pull.
#[derive(Debug)]
pub struct ActiveRequest {
    activities: Arc<Activities>,
    pub pull: Arc<PullActivity>,
}

impl ActiveRequest {
    /// Removes the pull: there is nothing to pull.
    pub fn forget(self) {
        if self.pull.requests.load(Ordering::Relaxed) == 1 {
            self.activities.running.lock().pop(&self.pull.digest);
            self.pull.changes.tell();
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let is_last = self.pull.requests.fetch_sub(1, Ordering::Relaxed) == 1;
        if is_last && self.pull.is_whole() {
            let mut running = self.activities.running.lock();
            // It may have appeared in the store, and been requested again.
            let is_listed = running.peek(&self.pull.digest);
            if is_listed.is_some_and(|listed| Arc::ptr_eq(listed, &self.pull)) {
                running.pop(&self.pull.digest);
                drop(running);
                self.activities.remember(self.pull.clone(), true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(all: &Arc<Activities>, digest: &Digest) -> ActiveRequest {
        all.begin(digest, None, &Reference::Digest(digest.clone()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_ends_when_its_last_request_has_brought_all_or_it_appears_or_is_given_up() {
        let all = Arc::new(Activities::new(Changes::default()));
        let [served, upstream, given_up] = [b"a", b"b", b"c"].map(|text| Digest::sha256(text));
        let first = begin(&all, &served);
        let second = begin(&all, &served);
        assert!(Arc::ptr_eq(&first.pull, &second.pull));
        first.pull.set_size(Some(10));
        first.pull.reached(10, 10);
        drop(first);
        assert_eq!((all.running().len(), all.finished().len()), (1, 0));
        drop(second);
        assert_eq!((all.running().len(), all.finished().len()), (0, 1));
        for digest in [&upstream, &given_up] {
            let request = begin(&all, digest);
            request
                .pull
                .set_source(PullSource::Upstream(UpstreamReason::Leads));
        }
        all.appeared(&upstream, 7);
        assert_eq!((all.running().len(), all.finished().len()), (1, 2));
        tokio::time::advance(ABANDONED_AFTER).await;
        assert!(all.running().is_empty());
        let ends: Vec<_> = all.finished().iter().map(|end| end.is_complete).collect();
        assert_eq!(ends, [false, true, true]);
    }

    #[test]
    fn what_is_listed_has_a_limit_and_changes_are_told() {
        let changes = Changes::default();
        let mut told = changes.subscribe();
        let all = Arc::new(Activities::new(changes));
        for number in 0..2 * MAX_RUNNING.get() {
            begin(&all, &Digest::sha256(&number.to_be_bytes()));
        }
        assert!(told.has_changed().expect("open"));
        told.mark_unchanged();
        assert_eq!(all.running().len(), MAX_RUNNING.get());
        assert_eq!(all.finished().len(), MAX_FINISHED);
        assert!(
            !told.has_changed().expect("open"),
            "to look changes nothing"
        );
    }
}
