//! Measures bytes per second over the last second.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The rate covers at most this time.
const LATELY: Duration = Duration::from_secs(1);
/// The interval between samples.
const MARK_EVERY: Duration = Duration::from_millis(200);

/// Bytes that come or go, in total and per second.
#[derive(Debug, Default)]
pub struct RateMeter {
    total: u64,
    /// Samples of the time and the total.
    marks: VecDeque<(Instant, u64)>,
}

impl RateMeter {
    pub fn received(&mut self, now: Instant, bytes: u64) {
        self.forget(now);
        self.total += bytes;
        let is_recent = |(at, _): &(Instant, u64)| now - *at < MARK_EVERY;
        if !self.marks.back().is_some_and(is_recent) {
            self.marks.push_back((now, self.total));
        }
    }

    /// The rate of the last second, in bytes per second.
    pub fn recent_rate(&mut self, now: Instant) -> u64 {
        self.forget(now);
        let Some((since, before)) = self.marks.front() else {
            return 0;
        };
        per_second(self.total - before, (now - *since).max(MARK_EVERY))
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |(at, _): &mut (Instant, u64)| now - *at > LATELY;
        while self.marks.pop_front_if(is_old).is_some() {}
    }
}

pub fn per_second(bytes: u64, took: Duration) -> u64 {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    bytes.saturating_mul(1000) / millis.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_now_is_that_of_the_last_second() {
        let (mut rate, mut now) = (RateMeter::default(), Instant::now());
        let step = Duration::from_millis(100);
        let mut flow = |rate: &mut RateMeter, bytes: u64, seconds: u32| {
            for _ in 0..seconds * 10 {
                now += step;
                rate.received(now, bytes / 10);
            }
            now
        };
        assert_eq!(rate.recent_rate(Instant::now()), 0);
        let now = flow(&mut rate, 1_000, 20);
        assert!((900..=1_200).contains(&rate.recent_rate(now)), "{rate:?}");
        let now = flow(&mut rate, 100_000, 2);
        assert!(
            (90_000..=120_000).contains(&rate.recent_rate(now)),
            "{rate:?}"
        );
        assert!(rate.marks.len() <= 6);
        assert_eq!(rate.recent_rate(now + LATELY * 2), 0);
    }
}
