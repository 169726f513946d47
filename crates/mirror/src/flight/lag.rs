//! Whether a follower takes far less than its source gets.

use std::time::Duration;

use tokio::time::Instant;

use super::rate::per_second;
use super::uploads::Load;

/// Who is no further behind, in bytes, holds nobody up: a step of the file of who leads.
pub const CLOSE: u64 = 1024 * 1024;
/// Followers are compared with their source over so long.
pub const WINDOW: Duration = Duration::from_millis(200);
/// Windows in a row in which a follower took less than half of what came in. One alone may be a step of the source's
/// file. The longer they are, the longer everybody behind the follower waits.
const STRIKES: u8 = 2;
/// A follower is not looked at for so long: where a source takes in all that its link carries, acknowledgements wait
/// behind what comes, and a connection needs several round trips of 100 ms to gather speed (slow start, RFC 5681, 3.1).
const GRACE: Duration = Duration::from_secs(1);

/// How far one follower is behind its source, as time goes by.
#[derive(Debug)]
pub struct Lag {
    /// When it began to follow.
    since: Instant,
    /// Where the window began.
    begin: Option<Look>,
    strikes: u8,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    source: u64,
    follower: u64,
}

impl Lag {
    pub fn new(since: Instant) -> Self {
        Self {
            since,
            begin: None,
            strikes: 0,
        }
    }

    /// The source has the object's bytes up to `source`, and handed those up to `follower` over. Returns, of a follower
    /// that stays behind, how many bytes a second it takes: not as long as it is close, nor when the source gets nothing
    /// either.
    pub fn look(&mut self, now: Instant, source: u64, follower: u64) -> Option<u64> {
        if now - self.since < GRACE {
            return None;
        }
        if source.saturating_sub(follower) <= CLOSE {
            self.forget();
            return None;
        }
        let look = Look {
            at: now,
            source,
            follower,
        };
        let begin = *self.begin.get_or_insert(look);
        if now - begin.at < WINDOW {
            return None;
        }
        self.begin = Some(look);
        let came = source.saturating_sub(begin.source);
        let taken = follower.saturating_sub(begin.follower);
        self.strikes = if taken < came.div_ceil(2) {
            self.strikes + 1
        } else {
            0
        };
        (self.strikes >= STRIKES).then(|| per_second(taken, now - begin.at))
    }

    /// Looks anew.
    pub fn forget(&mut self) {
        self.begin = None;
        self.strikes = 0;
    }
}

/// Whether a follower that takes so many bytes a second could do with more than it is given, by a source that takes in
/// so many in all. Where much is sent, who gets as much as others do waits for the source's uplink as they do.
pub fn is_starved(taken: u64, taken_in: u64, load: Load) -> bool {
    let is_busy = load.sent >= taken_in / 2;
    let share = load.sent / load.uploads.max(1);
    is_busy && taken >= share / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A follower at which to look from now on.
    fn lag(now: Instant) -> Lag {
        Lag::new(now.checked_sub(GRACE).expect("since the machine started"))
    }

    /// When a follower that took so much, in MiB, while so much came in each window was found to stay behind, counted in
    /// windows from the first look on.
    fn found_after(behind: u64, windows: &[(u64, u64)]) -> Option<usize> {
        let mut now = Instant::now();
        let mut lag = lag(now);
        let (mut source, mut follower) = (behind * MIB, 0);
        assert!(lag.look(now, source, follower).is_none());
        windows.iter().position(|(came, taken)| {
            source += came * MIB;
            follower += taken * MIB;
            now += WINDOW;
            lag.look(now, source, follower).is_some()
        })
    }

    #[test]
    fn two_windows_in_a_row_show_who_stays_behind() {
        assert_eq!(found_after(3, &[(8, 3), (8, 3)]), Some(1));
        assert_eq!(found_after(3, &[(8, 0), (8, 4), (8, 0), (8, 0)]), Some(3));
        let alternating = [(8, 0), (8, 4)].repeat(8);
        assert_eq!(found_after(3, &alternating), None);
    }

    #[test]
    fn who_takes_all_it_can_get_is_never_found() {
        // It comes late and has much to fetch, at the rate at which the source gets it.
        assert_eq!(found_after(500, &[(8, 8); 60]), None);
        // The source's file grows by steps, at less than one in a window.
        assert_eq!(found_after(2, &[(1, 0), (0, 1)].repeat(30)), None);
        assert_eq!(found_after(0, &[(2, 2); 60]), None);
    }

    #[test]
    fn who_gets_nothing_holds_nobody_up() {
        assert_eq!(found_after(500, &[(0, 0); 60]), None);
    }

    #[test]
    fn windows_begin_where_it_falls_behind_and_are_whole() {
        assert_eq!(found_after(0, &[(8, 0), (8, 0), (8, 0)]), Some(2));
        assert_eq!(found_after(3, &[(8, 0), (0, 11), (8, 0), (8, 0)]), None);
        let now = Instant::now();
        let mut lag = lag(now);
        let mut at = |eighths: u32| {
            let source = u64::from(eighths) * 8 * MIB;
            lag.look(now + WINDOW / 8 * eighths, source, 0)
        };
        let found = (1..100).find(|eighths| at(*eighths).is_some());
        assert_eq!(found, Some(17));
    }

    #[test]
    fn who_has_just_begun_may_gather_speed() {
        let now = Instant::now();
        let mut lag = Lag::new(now);
        let mut windows = (1..100).map(|n| (now + WINDOW * n, u64::from(n) * 8 * MIB));
        let found = windows.find_map(|(at, source)| Some((at, lag.look(at, source, source / 16)?)));
        let a_second = 8 * MIB / 16 * 5;
        assert_eq!(found, Some((now + GRACE + WINDOW * 2, a_second)));
    }

    #[test]
    fn who_gets_its_share_of_a_busy_uplink_is_not_slow() {
        let load = |sent, uploads| Load {
            sent: sent * MIB,
            uploads,
        };
        // Five are fed at once by one that takes in as much as it sends.
        assert!(is_starved(2 * MIB, 12 * MIB, load(12, 5)));
        // One of them takes far less than the others.
        assert!(!is_starved(MIB, 12 * MIB, load(12, 5)));
        // The uplink could carry more, so it is they who cannot.
        assert!(!is_starved(2 * MIB, 12 * MIB, load(4, 2)));
    }
}
