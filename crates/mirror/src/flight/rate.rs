//! How much this node takes in of what it pulls in flights, altogether.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What came so long ago at most shows what comes now…
const LATELY: Duration = Duration::from_secs(1);
/// …measured from one of some marks that lie so far apart.
const MARK_EVERY: Duration = Duration::from_millis(200);
/// Rates that are compared with each other are those over so long at least…
const WINDOW: Duration = Duration::from_secs(3);
/// …in which so much of the time, in percent, bytes were waited for: else it was for the client to take them.
const WAITED_PERCENT: u32 = 90;
/// The best rate counts for so long.
const REMEMBERED: Duration = Duration::from_secs(600);
/// A rate below so many parts of the best is low.
const LOW: u64 = 4;

/// What the node takes in, in bytes a second.
#[derive(Debug, Default)]
pub struct Rate {
    total: u64,
    /// When how much had come.
    marks: VecDeque<(Instant, u64)>,
    window: Window,
    /// The rate over the last window, and when that ended.
    last: Option<(Instant, u64)>,
    /// Rates that were the best since, the best first.
    best: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Bytes came that had been `waited` for.
    pub fn came(&mut self, now: Instant, bytes: u64, waited: Duration) {
        self.forget(now);
        self.total += bytes;
        let is_recent = |(at, _): &(Instant, u64)| now - *at < MARK_EVERY;
        if !self.marks.back().is_some_and(is_recent) {
            self.marks.push_back((now, self.total));
        }
        if let Some(rate) = self.window.came(now, bytes, waited) {
            self.last = Some((now, rate));
            while self.best.pop_back_if(|(_, best)| *best <= rate).is_some() {}
            self.best.push_back((now, rate));
        }
    }

    /// What comes now.
    pub fn lately(&mut self, now: Instant) -> u64 {
        self.forget(now);
        let Some((since, before)) = self.marks.front() else {
            return 0;
        };
        per_second(self.total - before, (now - *since).max(MARK_EVERY))
    }

    /// Whether what comes now, and is waited for, is far less than what came some time ago.
    pub fn is_low(&mut self, now: Instant) -> bool {
        self.forget(now);
        let best = self.best.front().map_or(0, |(_, rate)| *rate);
        self.last
            .is_some_and(|(at, rate)| now - at < WINDOW && rate.saturating_mul(LOW) < best)
    }

    fn forget(&mut self, now: Instant) {
        while self
            .marks
            .pop_front_if(|(at, _)| now - *at > LATELY)
            .is_some()
        {}
        while self
            .best
            .pop_front_if(|(at, _)| now - *at > REMEMBERED)
            .is_some()
        {}
    }
}

/// A span of time in which bytes were waited for throughout, by somebody.
#[derive(Debug, Default)]
pub struct Window {
    begin: Option<Instant>,
    /// Until when it is known whether somebody waited.
    until: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl Window {
    /// Bytes came that had been `waited` for. Returns the rate, in bytes a second, if that ends a window.
    pub fn came(&mut self, now: Instant, bytes: u64, waited: Duration) -> Option<u64> {
        let begin = *self.begin.get_or_insert(now);
        let counted_until = self.until.unwrap_or(begin);
        self.waited += waited.min(now - counted_until);
        self.until = Some(now);
        self.bytes += bytes;
        let took = now - begin;
        if took < WINDOW {
            return None;
        }
        let is_whole = self.waited * 100 >= took * WAITED_PERCENT;
        let rate = per_second(self.bytes, took);
        *self = Self {
            begin: Some(now),
            ..Self::default()
        };
        is_whole.then_some(rate)
    }
}

fn per_second(bytes: u64, took: Duration) -> u64 {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    bytes.saturating_mul(1000) / millis.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    /// Bytes that come at so many a second, for so long, and are waited for so much of the time, in percent.
    fn flow(rate: &mut Rate, now: &mut Instant, bytes: u64, seconds: u32, waited: u32) {
        for _ in 0..seconds * 10 {
            *now += STEP;
            rate.came(*now, bytes / 10, STEP * waited / 100);
        }
    }

    #[test]
    fn what_comes_now_is_that_of_the_last_second() {
        let (mut rate, mut now) = (Rate::default(), Instant::now());
        assert_eq!(rate.lately(now), 0);
        flow(&mut rate, &mut now, 1_000, 20, 100);
        assert!((900..=1_200).contains(&rate.lately(now)), "{rate:?}");
        flow(&mut rate, &mut now, 100_000, 2, 0);
        assert!((90_000..=120_000).contains(&rate.lately(now)), "{rate:?}");
        assert!(rate.marks.len() <= 6);
        assert_eq!(rate.lately(now + LATELY * 2), 0);
    }

    #[test]
    fn far_less_than_the_best_is_low() {
        let (mut rate, mut now) = (Rate::default(), Instant::now());
        flow(&mut rate, &mut now, 1_000, 10, 100);
        assert!(!rate.is_low(now), "nothing was better");
        flow(&mut rate, &mut now, 400, 10, 100);
        assert!(!rate.is_low(now));
        flow(&mut rate, &mut now, 100, 10, 100);
        assert!(rate.is_low(now));
        assert!(!rate.is_low(now + WINDOW), "that was then");
        // What is better for a while is what the node can get.
        flow(&mut rate, &mut now, 2_000, 10, 100);
        flow(&mut rate, &mut now, 400, 10, 100);
        assert!(rate.is_low(now));
        flow(&mut rate, &mut now, 400, 600, 100);
        assert!(!rate.is_low(now), "it was long ago");
        assert!(rate.best.len() <= 201);
    }

    #[test]
    fn what_the_client_does_not_take_is_not_low() {
        let (mut rate, mut now) = (Rate::default(), Instant::now());
        flow(&mut rate, &mut now, 1_000, 10, 100);
        flow(&mut rate, &mut now, 10, 10, 50);
        assert!(!rate.is_low(now));
    }

    #[test]
    fn waits_of_several_at_the_same_time_count_once() {
        let (mut window, mut now) = (Window::default(), Instant::now());
        assert_eq!(window.came(now, 0, STEP), None);
        // Each waits for half of the time, and at the same moments.
        let rates: Vec<_> = (0..100)
            .filter_map(|_| {
                now += STEP;
                let first = window.came(now, 1, STEP / 2);
                first.or(window.came(now, 1, STEP / 2))
            })
            .collect();
        assert_eq!(rates, [0; 0]);
    }
}
