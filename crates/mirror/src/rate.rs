//! Measures bytes per second over the last second.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The longest time that the rate covers.
const LATELY: Duration = Duration::from_secs(1);
/// The interval between samples.
const MARK_EVERY: Duration = Duration::from_millis(200);
/// The window of a [`Throughput`], in milliseconds.
const WINDOW_MS: u64 = 1000;

/// Bytes received or sent, in total and per second. They may come in steps.
#[derive(Debug, Default)]
pub struct RateMeter {
    total: u64,
    began: Option<Instant>,
    /// Samples of the time, and of the total before the bytes of that time.
    marks: VecDeque<(Instant, u64)>,
}

impl RateMeter {
    pub fn received(&mut self, now: Instant, bytes: u64) {
        self.forget(now);
        self.began.get_or_insert(now);
        let is_recent = |(at, _): &(Instant, u64)| now - *at < MARK_EVERY;
        if !self.marks.back().is_some_and(is_recent) {
            self.marks.push_back((now, self.total));
        }
        self.total += bytes;
    }

    /// The rate of the last second, in bytes per second.
    pub fn recent_rate(&mut self, now: Instant) -> u64 {
        self.forget(now);
        let (Some((_, before)), Some(began)) = (self.marks.front(), self.began) else {
            return 0;
        };
        let over = (now - began).clamp(MARK_EVERY, LATELY);
        per_second(self.total - before, over)
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |(at, _): &mut (Instant, u64)| now - *at > LATELY;
        while self.marks.pop_front_if(is_old).is_some() {}
    }
}

/// The rate of one stream or several in bytes per second, measured without a lock: simultaneous bytes may be attributed
/// to the next window.
#[derive(Debug)]
pub struct Throughput {
    began: Instant,
    total: AtomicU64,
    /// When this window began, in milliseconds since `began`, and the total by then.
    window_at: AtomicU64,
    window_total: AtomicU64,
    /// The rate of the last window.
    rate: AtomicU64,
}

impl Default for Throughput {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            total: AtomicU64::new(0),
            window_at: AtomicU64::new(0),
            window_total: AtomicU64::new(0),
            rate: AtomicU64::new(0),
        }
    }
}

impl Throughput {
    pub fn add(&self, bytes: u64) {
        let total = self.total.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let (now, at) = (self.now(), self.window_at.load(Ordering::Relaxed));
        let is_over = now.saturating_sub(at) >= WINDOW_MS;
        let begin = || {
            let order = Ordering::Relaxed;
            self.window_at.compare_exchange(at, now, order, order)
        };
        if is_over && begin().is_ok() {
            let before = self.window_total.swap(total, Ordering::Relaxed);
            // After a pause, a new window begins.
            let took = Duration::from_millis((now - at).min(2 * WINDOW_MS));
            let rate = per_second(total.saturating_sub(before), took);
            self.rate.store(rate, Ordering::Relaxed);
        }
    }

    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// The rate in bytes per second: that of the last window, unless nothing has come since.
    pub fn rate(&self) -> u64 {
        let (took, rate) = (self.idle(), self.rate.load(Ordering::Relaxed));
        if rate > 0 && took.as_millis() < u128::from(2 * WINDOW_MS) {
            return rate;
        }
        let before = self.window_total.load(Ordering::Relaxed);
        per_second(self.total().saturating_sub(before), took)
    }

    /// The time since bytes were last added. Below one window it may be too long.
    pub fn idle(&self) -> Duration {
        let at = self.window_at.load(Ordering::Relaxed);
        Duration::from_millis(self.now().saturating_sub(at))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
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

    /// 1 MiB every two seconds is half a MiB a second on average, however it is sampled.
    #[test]
    fn bytes_that_come_in_steps_are_counted_once() {
        let (mut meter, began) = (RateMeter::default(), Instant::now());
        let mut sampled = 0;
        for tick in 0..400 {
            let now = began + Duration::from_millis(250) * tick;
            if tick % 8 == 0 {
                meter.received(now, 1 << 20);
            }
            sampled += meter.recent_rate(now) / 4;
        }
        let received = meter.total;
        assert!(
            (received..received * 3 / 2).contains(&sampled),
            "{sampled} of {received}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_throughput_is_that_of_the_last_window_and_falls_when_nothing_comes() {
        let throughput = Throughput::default();
        for _ in 0..30 {
            tokio::time::advance(Duration::from_millis(100)).await;
            throughput.add(100);
        }
        assert_eq!((throughput.total(), throughput.rate()), (3000, 1000));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(throughput.rate() < 20 && throughput.idle() >= Duration::from_secs(60));
    }
}
