//! Detects followers that are far slower than this node.

use std::time::Duration;

use tokio::time::Instant;

use super::rate::per_second;
use super::uploads::UploadRate;

/// A follower at most this many bytes behind is not too slow: one step of a leader's file.
pub const SMALL_LAG: u64 = 1024 * 1024;
/// Followers are compared with this node over windows of this length.
pub const WINDOW: Duration = Duration::from_millis(200);
/// A follower is too slow after this many windows in a row in which it took less than half of what this node received.
///
/// A single window may be one step of this node's file. More windows would make all nodes behind the follower wait
/// longer.
const STRIKES: u8 = 2;
/// A new follower is not checked for this long. If this node's downlink is full, acknowledgements wait behind data, and
/// a connection needs several round trips of 100 ms to reach its rate (slow start, RFC 5681, 3.1).
const GRACE: Duration = Duration::from_secs(1);

/// The lag of one follower over time.
#[derive(Debug)]
pub struct FollowerLag {
    /// When it began to follow.
    since: Instant,
    /// The start of the window.
    begin: Option<Sample>,
    strikes: u8,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    source: u64,
    follower: u64,
}

impl FollowerLag {
    pub fn new(since: Instant) -> Self {
        Self {
            since,
            begin: None,
            strikes: 0,
        }
    }

    /// Compares a follower with this node: the offset that this node has (`source`), and the one handed to the
    /// follower.
    ///
    /// Returns the follower's rate, in bytes per second, if it is too slow: not while it is close, nor while this node
    /// receives nothing.
    pub fn check(&mut self, now: Instant, source: u64, follower: u64) -> Option<u64> {
        if now - self.since < GRACE {
            return None;
        }
        if source.saturating_sub(follower) <= SMALL_LAG {
            self.forget();
            return None;
        }
        let check = Sample {
            at: now,
            source,
            follower,
        };
        let begin = *self.begin.get_or_insert(check);
        if now - begin.at < WINDOW {
            return None;
        }
        self.begin = Some(check);
        let received = source.saturating_sub(begin.source);
        let taken = follower.saturating_sub(begin.follower);
        self.strikes = if taken < received.div_ceil(2) {
            self.strikes + 1
        } else {
            0
        };
        (self.strikes >= STRIKES).then(|| per_second(taken, now - begin.at))
    }

    /// Starts again.
    pub fn forget(&mut self) {
        self.begin = None;
        self.strikes = 0;
    }
}

/// Whether a follower is slow because this node's uplink is busy, given its rate, what this node receives, and what it
/// sends.
///
/// If much is sent, a follower with its share waits for the uplink like all others.
pub fn is_starved(taken: u64, taken_in: u64, upload_rate: UploadRate) -> bool {
    let is_busy = upload_rate.sent >= taken_in / 2;
    let share = upload_rate.sent / upload_rate.uploads.max(1);
    is_busy && taken >= share / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A follower at which to look from now on.
    fn lag(now: Instant) -> FollowerLag {
        FollowerLag::new(now.checked_sub(GRACE).expect("since the machine started"))
    }

    /// When a follower that took so much, in MiB, while so much came in each window was found to stay behind, counted in
    /// windows from the first look on.
    fn found_after(behind: u64, windows: &[(u64, u64)]) -> Option<usize> {
        let mut now = Instant::now();
        let mut lag = lag(now);
        let (mut source, mut follower) = (behind * MIB, 0);
        assert!(lag.check(now, source, follower).is_none());
        windows.iter().position(|(received, taken)| {
            source += received * MIB;
            follower += taken * MIB;
            now += WINDOW;
            lag.check(now, source, follower).is_some()
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
            lag.check(now + WINDOW / 8 * eighths, source, 0)
        };
        let found = (1..100).find(|eighths| at(*eighths).is_some());
        assert_eq!(found, Some(17));
    }

    #[test]
    fn who_has_just_begun_may_gather_speed() {
        let now = Instant::now();
        let mut lag = FollowerLag::new(now);
        let mut windows = (1..100).map(|n| (now + WINDOW * n, u64::from(n) * 8 * MIB));
        let found =
            windows.find_map(|(at, source)| Some((at, lag.check(at, source, source / 16)?)));
        let a_second = 8 * MIB / 16 * 5;
        assert_eq!(found, Some((now + GRACE + WINDOW * 2, a_second)));
    }

    #[test]
    fn who_gets_its_share_of_a_busy_uplink_is_not_slow() {
        let upload_rate = |sent, uploads| UploadRate {
            sent: sent * MIB,
            uploads,
        };
        // Five are fed at once by one that takes in as much as it sends.
        assert!(is_starved(2 * MIB, 12 * MIB, upload_rate(12, 5)));
        // One of them takes far less than the others.
        assert!(!is_starved(MIB, 12 * MIB, upload_rate(12, 5)));
        // The uplink could carry more, so it is they who cannot.
        assert!(!is_starved(2 * MIB, 12 * MIB, upload_rate(4, 2)));
    }
}
