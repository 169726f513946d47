//! Decides when a failed action may be tried again.

use std::time::Duration;

/// A back-off that doubles. Times are counted from the start of the process.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failures: u32,
    at: Duration,
}

impl Retry {
    pub fn is_due(&self, now: Duration) -> bool {
        now >= self.at
    }

    /// The earliest time of the next attempt.
    pub fn at(&self) -> Duration {
        self.at
    }

    /// The number of consecutive failures.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn succeed(&mut self) {
        *self = Self::default();
    }

    /// Sets the wait: the first of two times after the first failure, twice as long after each further one, at most the
    /// second.
    pub fn fail(&mut self, now: Duration, (first, most): (Duration, Duration)) {
        let doubled = first.saturating_mul(2_u32.saturating_pow(self.failures));
        self.at = now + doubled.min(most);
        self.failures = self.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_end_with_a_success() {
        let (second, now) = (Duration::from_secs(1), Duration::from_secs(100));
        let mut retry = Retry::default();
        assert!(retry.is_due(Duration::ZERO));
        let mut wait = || {
            retry.fail(now, (second, second * 5));
            (retry.at() - now).as_secs()
        };
        assert_eq!([wait(), wait(), wait(), wait(), wait()], [1, 2, 4, 5, 5]);
        for _ in 0..100 {
            retry.fail(now, (second, second * 5));
        }
        assert_eq!(retry.at(), now + second * 5);
        retry.succeed();
        assert!(retry.is_due(Duration::ZERO) && retry.failures() == 0);
    }
}
