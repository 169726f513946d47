//! What this node receives from a registry as a leader.

use std::collections::VecDeque;
use std::time::Duration;

use crate::Time;
use crate::pull_rules::STEPS;

/// Connections speed up for this long.
const SPEEDS_UP_FOR: Duration = Duration::from_secs(2);
/// The time over which a rate is measured: twice the time in which all steps come, within these bounds.
const WINDOW_MIN: Duration = Duration::from_secs(1);
const WINDOW_MAX: Duration = Duration::from_secs(15);
/// The shortest time over which a rate counts as that of the registry.
const LOWER_BOUND_OVER: Duration = Duration::from_secs(2);

/// The bytes received since this node leads.
#[derive(Clone, Debug)]
pub(crate) struct LeadMeter {
    since: Time,
    /// The bytes received before the lead, and by each of the latest observations.
    before: u64,
    observed: VecDeque<(Time, u64)>,
}

impl LeadMeter {
    pub fn begin(now: Time, bytes: u64) -> Self {
        Self {
            since: now,
            before: bytes,
            observed: VecDeque::new(),
        }
    }

    /// Records the bytes received by now.
    pub fn record(&mut self, now: Time, bytes: u64) {
        let is_old = |(at, _): &mut (Time, u64)| now.since(*at) > WINDOW_MAX + WINDOW_MIN;
        while self.observed.pop_front_if(is_old).is_some() {}
        self.observed.push_back((now, bytes));
    }

    /// The bytes received by the latest observation.
    pub fn bytes(&self) -> u64 {
        self.observed
            .back()
            .map_or(self.before, |(_, bytes)| *bytes)
    }

    /// The least rate of the registry, in bytes per second: the highest average of a time up to now, `longest` at most,
    /// without the steps that may have come just now.
    pub fn lower_bound(&self, now: Time, longest: Duration) -> u64 {
        let began = (self.since, self.before);
        let times = self.observed.iter().copied().chain([began]);
        let is_enough =
            |(at, _): &(Time, u64)| (LOWER_BOUND_OVER..=longest).contains(&now.since(*at));
        let rates = times.filter(is_enough).map(|(at, before)| {
            let bytes = (self.bytes() - before).saturating_sub(STEPS);
            per_second(bytes, now.since(at))
        });
        rates.max().unwrap_or(0)
    }

    /// The highest rate of the registry now, in bytes per second, over a time in which many steps come at the
    /// `expected` rate. `None`: it is too early to tell.
    pub fn upper_bound(&self, now: Time, expected: u64) -> Option<u64> {
        let millis = (2 * STEPS).saturating_mul(1_000) / expected.max(1);
        let over = Duration::from_millis(millis).clamp(WINDOW_MIN, WINDOW_MAX);
        if now.since(self.since) < SPEEDS_UP_FOR + over {
            return None;
        }
        let mut earlier = self.observed.iter().rev();
        let (at, before) = earlier.find(|(at, _)| now.since(*at) >= over)?;
        Some(per_second(self.bytes() - before, now.since(*at)))
    }
}

fn per_second(bytes: u64, over: Duration) -> u64 {
    let millis = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
    bytes.saturating_mul(1_000) / millis.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(250);

    /// Three downloads that share a link, with coinciding steps: the bounds of the rate that they show as they go on.
    fn shown(rate: u64, expected: u64) -> Vec<(u64, Option<u64>)> {
        let (mut now, mut lead) = (Time(0), LeadMeter::begin(Time(0), STEPS));
        let shown = (1..240).map(|_| {
            now = now.after(EVERY);
            let came = rate * now.since(Time(0)).as_millis() as u64 / 1_000;
            lead.record(now, STEPS + came / STEPS * STEPS);
            (
                lead.lower_bound(now, Duration::MAX),
                lead.upper_bound(now, expected),
            )
        });
        shown.collect()
    }

    #[test]
    fn steps_are_neither_speed_nor_silence() {
        for rate in [250_000, 500_000, 1_000_000, 12_500_000] {
            let shown = shown(rate, rate);
            assert!(shown.iter().all(|(lower_bound, _)| *lower_bound <= rate));
            let last = shown.last().expect("many").0;
            assert!(last >= rate * 3 / 5, "{last} of {rate}");
            let upper_bound: Vec<_> = shown
                .iter()
                .filter_map(|(_, upper_bound)| *upper_bound)
                .collect();
            assert!(!upper_bound.is_empty());
            assert!(
                upper_bound.iter().all(|shown| *shown >= rate / 3),
                "{rate}: {upper_bound:?}"
            );
        }
    }

    /// However slowly its lead began.
    #[test]
    fn a_fast_registry_is_known_after_two_seconds() {
        for began_after in [Duration::ZERO, Duration::from_secs(5)] {
            let mut lead = LeadMeter::begin(Time(0), 0);
            let shown = [0_u32, 1, 2, 3, 4, 5, 6, 7, 8].map(|step| {
                let now = Time(0).after(began_after + EVERY * step);
                lead.record(now, 25_000 * 250 * u64::from(step));
                lead.lower_bound(now, Duration::MAX)
            });
            assert!(
                shown[8] > 20_000_000 && shown[7] < 10_000_000,
                "{began_after:?}: {shown:?}"
            );
        }
    }

    #[test]
    fn a_lead_that_becomes_slow_shows_it_within_two_seconds() {
        let mut lead = LeadMeter::begin(Time(0), 0);
        for step in 0..40 {
            lead.record(Time(0).after(EVERY * step), 3_000_000 * u64::from(step));
        }
        let (slow_since, bytes) = (Time(0).after(EVERY * 39), 3_000_000 * 39);
        let mut now = slow_since;
        let noticed = (1..).find(|step| {
            now = slow_since.after(EVERY * *step);
            lead.record(now, bytes + 100_000 * u64::from(*step));
            lead.upper_bound(now, 12_000_000)
                .is_some_and(|rate| rate * 4 < 12_000_000)
        });
        assert!(EVERY * noticed.expect("at some time") <= Duration::from_secs(2));
    }
}
