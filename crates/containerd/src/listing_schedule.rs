//! Decides when everything is listed: regularly, and soon after a request.

use std::time::Duration;

use tokio::time::Instant;

/// The minimal interval between requested listings; longer if a listing takes long.
const SOONEST: Duration = Duration::from_millis(100);
/// The minimal pause between requested listings, as a multiple of their own duration.
const REST: u32 = 4;

#[derive(Debug)]
pub(crate) struct ListingSchedule {
    next: Instant,
    soonest: Instant,
    begun: Instant,
    /// A listing was requested since the last one began.
    wanted: bool,
}

impl ListingSchedule {
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

    /// Records that a listing begins.
    pub fn begin(&mut self, now: Instant) {
        self.begun = now;
        self.wanted = false;
    }

    /// Records that a listing has ended. The next begins after `wait`, or soon if one was requested during this one.
    pub fn end(&mut self, now: Instant, wait: Duration) {
        self.soonest = now + ((now - self.begun) * REST).max(SOONEST);
        self.next = now + wait;
        if self.wanted {
            self.soon(now);
        }
    }

    /// Requests a listing.
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
        let mut schedule = ListingSchedule::new(start);
        assert_eq!(schedule.next(), start);
        schedule.begin(start);
        schedule.end(at(10), MINUTE);
        assert_eq!(schedule.next(), at(10) + MINUTE);
        schedule.soon(at(20));
        assert_eq!(schedule.next(), at(110), "not at once");
        schedule.begin(at(110));
        schedule.end(at(1110), MINUTE);
        schedule.soon(at(1110));
        assert_eq!(
            schedule.next(),
            at(5110),
            "four times what the last one took"
        );
        schedule.soon(at(6000));
        assert_eq!(schedule.next(), at(5110), "due already");
    }

    #[test]
    fn what_is_asked_for_during_a_listing_is_not_forgotten() {
        let start = Instant::now();
        let mut schedule = ListingSchedule::new(start);
        schedule.begin(start);
        schedule.soon(start);
        schedule.end(start, MINUTE);
        assert_eq!(schedule.next(), start + SOONEST);
        schedule.begin(schedule.next());
        schedule.end(schedule.next(), MINUTE);
        assert_eq!(schedule.next(), start + SOONEST + MINUTE);
    }
}
