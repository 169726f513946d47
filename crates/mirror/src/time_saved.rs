//! The additional time that pulls would have taken without peers.
//!
//! The time saved is the time that the bytes from peers would have taken at upstream's rate to this node, less the time
//! that they took. Simultaneous objects count as one, so rates are those of the whole node.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The least bytes of an object that shows the rate of upstream: smaller ones mostly take the time of the request.
const MEASURED_FROM: u64 = 1 << 20;

#[derive(Debug, Default)]
pub struct TimeSaved(Mutex<Spans>);

#[derive(Debug, Default)]
struct Spans {
    /// Large objects that came only from upstream.
    upstream: Span,
    /// Objects with any bytes from peers, and these bytes.
    peers: Span,
}

/// Bytes, and the total time in which any of them came.
#[derive(Debug, Default)]
struct Span {
    bytes: u64,
    busy: Duration,
    until: Option<Instant>,
}

impl Span {
    fn add(&mut self, bytes: u64, began: Instant, ended: Instant) {
        let counted = self.until.map_or(began, |until| until.max(began));
        self.bytes = self.bytes.saturating_add(bytes);
        self.busy += ended.saturating_duration_since(counted);
        self.until = self.until.max(Some(ended));
    }
}

impl TimeSaved {
    /// Adds an object that has come.
    pub fn add(&self, peers: u64, upstream: u64, began: Instant, ended: Instant) {
        let mut spans = self.0.lock();
        if peers > 0 {
            spans.peers.add(peers, began, ended);
        } else if upstream >= MEASURED_FROM {
            spans.upstream.add(upstream, began, ended);
        }
    }

    /// The time saved. `None`: upstream has not been measured yet.
    pub fn total(&self) -> Option<Duration> {
        let spans = self.0.lock();
        let (upstream, peers) = (&spans.upstream, &spans.peers);
        if upstream.bytes == 0 || upstream.busy.is_zero() {
            return None;
        }
        let seconds = peers.bytes as f64 * upstream.busy.as_secs_f64() / upstream.bytes as f64;
        let would_take = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        Some(would_take.saturating_sub(peers.busy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_saved_is_the_time_at_the_rate_of_upstream_less_the_time_taken() {
        let (saved, start) = (TimeSaved::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        saved.add(0, 1000, at(0), at(9));
        saved.add(100 << 20, 0, at(10), at(12));
        assert_eq!(saved.total(), None, "upstream is not measured");
        // Two at the same moment: 20 MiB in 10 s.
        saved.add(0, 10 << 20, at(20), at(30));
        saved.add(0, 10 << 20, at(20), at(30));
        assert_eq!(saved.total(), Some(Duration::from_secs(50 - 2)));
        // 50 MiB would have taken 25 s, and took 100.
        saved.add(50 << 20, 1 << 20, at(40), at(140));
        assert_eq!(saved.total(), Some(Duration::ZERO));
    }
}
