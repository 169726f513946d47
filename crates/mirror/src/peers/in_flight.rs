//! A request to a peer, from which the peer's latency and rate are measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Peers;
use crate::PeerId;
use crate::rate::{Throughput, per_second};

/// The least bytes of an answer that shows the rate of a peer.
const MEASURED_FROM: u64 = 256 * 1024;

/// A request in flight to a peer.
#[derive(Debug)]
pub struct InFlight {
    peers: Arc<Peers>,
    peer: PeerId,
    received: Arc<Throughput>,
    pub(super) asked: Instant,
    answered: bool,
    /// The bytes of this answer.
    bytes: AtomicU64,
}

impl InFlight {
    pub(super) fn new(peers: Arc<Peers>, peer: PeerId, received: Arc<Throughput>) -> Self {
        Self {
            peers,
            peer,
            received,
            asked: Instant::now(),
            answered: false,
            bytes: AtomicU64::new(0),
        }
    }

    /// Records that the head of the answer has come. Returns how long that took.
    pub fn answered(&mut self, now: Instant) -> Duration {
        let after = now.saturating_duration_since(self.asked);
        self.answered = true;
        if let Some(record) = self.peers.records.lock().get_mut(&self.peer) {
            record.latency = (record.latency * 7 + after) / 8;
            record.measured = now;
        }
        after
    }

    /// Counts bytes of the answer.
    pub fn received(&self, bytes: u64) {
        self.received.add(bytes);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records that the answer was good to the last byte: clears the peer's failures, and allows connections to it to
    /// be kept.
    pub fn finished(&self) {
        if let Some(record) = self.peers.records.lock().get_mut(&self.peer) {
            record.has_delivered = true;
            record.failures = 0;
            record.false_announcements = 0;
            record.backed_off_until = None;
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
        let bytes = self.bytes.load(Ordering::Relaxed);
        if bytes >= MEASURED_FROM {
            let rate = per_second(bytes, self.asked.elapsed());
            record.measured_rate = match record.measured_rate {
                0 => rate,
                before => before / 4 * 3 + rate / 4,
            };
        }
        // Another peer was faster. This one takes at least this long, so it is asked after peers that do not.
        if !self.answered {
            record.latency = record.latency.max(self.asked.elapsed() * 2);
            record.measured = Instant::now();
        }
    }
}
