//! Time as this crate is told it.

use std::time::Duration;

/// A moment, in milliseconds since a moment of the caller's choice. It must never run backwards: take it from a
/// monotonic clock, never from the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The moment `wait` after this one, to the millisecond.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(millis(wait)))
    }

    /// How long ago `earlier` was; zero where it is yet to come.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// When a member entered the cluster, on this node's clock.
///
/// Nodes share no clock, so messages carry ages: whoever sends one reckons it afresh from its own clock, and what a
/// message spends on the way is all that is lost. An age told is therefore never too high, and of two the higher is
/// nearer to the truth. May lie before the origin of [`Time`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Born(i64);

impl Born {
    /// Of something that is `age` old now.
    #[must_use]
    pub fn from_age(now: Time, age: Duration) -> Self {
        Self(signed(now.0).saturating_sub(signed(millis(age))))
    }

    /// How old it is now.
    #[must_use]
    pub fn age(self, now: Time) -> Duration {
        Duration::from_millis(signed(now.0).saturating_sub(self.0).try_into().unwrap_or(0))
    }

    /// Milliseconds by which this came after `other`; zero if it came before.
    pub(crate) fn millis_after(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0).try_into().unwrap_or(0)
    }

    /// The moment `wait` milliseconds after this birth; the origin where that lies before it.
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
