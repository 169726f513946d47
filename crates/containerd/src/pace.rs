//! When to list everything: as a matter of course now and then, and soon when something asks for it.

use std::time::Duration;

use tokio::time::Instant;

/// Between listings that are asked for, at the least; more where a listing takes long.
const SOONEST: Duration = Duration::from_millis(100);
/// Listings that are asked for leave this many times their own duration between them.
const REST: u32 = 4;

#[derive(Debug)]
pub(crate) struct Pace {
    next: Instant,
    soonest: Instant,
    begun: Instant,
    /// Asked for since the last listing began.
    wanted: bool,
}

impl Pace {
    /// The first listing is due at once.
    pub fn new(now: Instant) -> Self {
        Self {
            next: now,
            soonest: now,
            begun: now,
            wanted: false,
        }
    }

    pub fn next(&self) -> Instant {
        self.next
    }

    /// A listing begins.
    pub fn begin(&mut self, now: Instant) {
        self.begun = now;
        self.wanted = false;
    }

    /// A listing ended; the next comes after `wait`, or soon if one was asked for while this one went on.
    pub fn end(&mut self, now: Instant, wait: Duration) {
        self.soonest = now + ((now - self.begun) * REST).max(SOONEST);
        self.next = now + wait;
        if self.wanted {
            self.soon(now);
        }
    }

    /// Asks for a listing.
    pub fn soon(&mut self, now: Instant) {
        self.wanted = true;
        self.next = self.next.min(self.soonest.max(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn listings_that_are_asked_for_leave_room_between_them() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start);
        assert_eq!(pace.next(), start);
        pace.begin(start);
        pace.end(at(10), MINUTE);
        assert_eq!(pace.next(), at(10) + MINUTE);
        pace.soon(at(20));
        assert_eq!(pace.next(), at(110), "not at once");
        pace.begin(at(110));
        pace.end(at(1110), MINUTE);
        pace.soon(at(1110));
        assert_eq!(pace.next(), at(5110), "four times what the last one took");
        pace.soon(at(6000));
        assert_eq!(pace.next(), at(5110), "due already");
    }

    #[test]
    fn what_is_asked_for_during_a_listing_is_not_forgotten() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.begin(start);
        pace.soon(start);
        pace.end(start, MINUTE);
        assert_eq!(pace.next(), start + SOONEST);
        pace.begin(pace.next());
        pace.end(pace.next(), MINUTE);
        assert_eq!(pace.next(), start + SOONEST + MINUTE);
    }
}
