//! Whether a follower takes far less than its source gets.

use std::time::Duration;

use tokio::time::Instant;

/// Who is no further behind, in bytes, holds nobody up: a step of the file of who leads.
pub const CLOSE: u64 = 1024 * 1024;
/// Followers are compared with their source over so long.
pub const WINDOW: Duration = Duration::from_millis(200);
/// Windows in a row in which a follower took less than half of what came in. One alone may be a step of the source's
/// file. The longer they are, the longer everybody behind the follower waits.
const STRIKES: u8 = 2;

/// How far one follower is behind its source, as time goes by.
#[derive(Debug, Default)]
pub struct Lag {
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
    /// The source has the object's bytes up to `source`, and handed those up to `follower` over. Says whether the
    /// follower stays behind: not as long as it is close, nor when the source gets nothing either.
    pub fn look(&mut self, now: Instant, source: u64, follower: u64) -> bool {
        if source.saturating_sub(follower) <= CLOSE {
            *self = Self::default();
            return false;
        }
        let look = Look {
            at: now,
            source,
            follower,
        };
        let begin = *self.begin.get_or_insert(look);
        if now - begin.at < WINDOW {
            return false;
        }
        self.begin = Some(look);
        let came = source.saturating_sub(begin.source);
        let taken = follower.saturating_sub(begin.follower);
        self.strikes = if taken < came.div_ceil(2) {
            self.strikes + 1
        } else {
            0
        };
        self.strikes >= STRIKES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// When a follower that took so much, in MiB, while so much came in each window was found to stay behind, counted in
    /// windows from the first look on.
    fn found_after(behind: u64, windows: &[(u64, u64)]) -> Option<usize> {
        let (mut lag, mut now) = (Lag::default(), Instant::now());
        let (mut source, mut follower) = (behind * MIB, 0);
        assert!(!lag.look(now, source, follower));
        windows.iter().position(|(came, taken)| {
            source += came * MIB;
            follower += taken * MIB;
            now += WINDOW;
            lag.look(now, source, follower)
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
        let (mut lag, now) = (Lag::default(), Instant::now());
        let mut at =
            |eighths: u32| lag.look(now + WINDOW / 8 * eighths, u64::from(eighths) * 8 * MIB, 0);
        let found = (1..100).find(|eighths| at(*eighths));
        assert_eq!(found, Some(17));
    }
}
