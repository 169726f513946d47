//! A rate limit for each peer. Pure: time is passed in.

use std::time::{Duration, Instant};

/// The datagrams accepted from a connection per second. In a cluster of 10,000, each peer sends a few.
const RATE: u32 = 2_000;
/// Each further group of this many bytes counts as another datagram.
const BYTES_PER_UNIT: usize = 8 * 1024;
/// The cost of a new stream, in datagrams.
pub(super) const STREAM_COST: u32 = 20;
/// The burst accepted at once, as the time it would take at [`RATE`].
const BURST: Duration = Duration::from_secs(1);

/// A token bucket, stored as the time when it is full again.
#[derive(Debug, Default)]
pub(super) struct Allowance(Option<Instant>);

impl Allowance {
    /// How long to wait until more is accepted.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let over = self.0?.checked_duration_since(now)?.checked_sub(BURST)?;
        (!over.is_zero()).then_some(over)
    }

    pub(super) fn spend(&mut self, now: Instant, units: u32) {
        let from = self.0.map_or(now, |full| full.max(now));
        self.0 = Some(from + units * (Duration::from_secs(1) / RATE));
    }

    pub(super) fn spend_on(&mut self, now: Instant, datagram: &[u8]) {
        let more = u32::try_from(datagram.len() / BYTES_PER_UNIT).unwrap_or(u32::MAX);
        self.spend(now, more.saturating_add(1).min(RATE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_a_flood_waits() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        for _ in 0..RATE {
            assert_eq!(allowance.wait(now), None);
            allowance.spend_on(now, b"short");
        }
        allowance.spend_on(now, &[0; 3 * BYTES_PER_UNIT]);
        assert_eq!(allowance.wait(now), Some(4 * Duration::from_secs(1) / RATE));
        assert_eq!(allowance.wait(now + BURST), None);
    }
}
