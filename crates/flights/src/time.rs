//! Time, as passed in by the caller.

use std::time::Duration;

/// A point in time, in milliseconds since an origin of the caller's choice.
///
/// It must be monotonic: never take it from the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The time `wait` after this one, to the millisecond.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(millis(wait)))
    }

    /// The time this long before; not before the origin.
    #[must_use]
    pub(crate) fn before(self, lead: Duration) -> Self {
        Self(self.0.saturating_sub(millis(lead)))
    }

    /// The time since `earlier`; zero if that is in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// When a member joined the cluster, on this node's clock. May lie before the origin of [`Time`].
///
/// Nodes share no clock, so messages carry ages. A sender computes the age from its own clock, so an age is low by the
/// time the message was on the way, never high: of two ages the higher is more accurate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Born(i64);

impl Born {
    /// The birth of something that is `age` old now.
    #[must_use]
    pub fn from_age(now: Time, age: Duration) -> Self {
        Self(signed(now.0).saturating_sub(signed(millis(age))))
    }

    /// Its age now.
    #[must_use]
    pub fn age(self, now: Time) -> Duration {
        Duration::from_millis(signed(now.0).saturating_sub(self.0).try_into().unwrap_or(0))
    }

    /// Milliseconds by which this is later than `other`; zero if it is earlier.
    pub(crate) fn millis_after(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0).try_into().unwrap_or(0)
    }

    /// The birth `wait` milliseconds earlier.
    pub(crate) fn minus_millis(self, wait: u64) -> Self {
        Self(self.0.saturating_sub(signed(wait)))
    }

    /// The time `wait` milliseconds after this birth, or the origin if that is later.
    pub(crate) fn plus_millis(self, wait: u64) -> Time {
        Time(self.0.saturating_add(signed(wait)).try_into().unwrap_or(0))
    }
}

pub(crate) fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

fn signed(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}
