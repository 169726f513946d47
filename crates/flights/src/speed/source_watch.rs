//! Watches the source of one object: whether it is alive, and whether it sends what it has.

use std::time::Duration;

use super::link::SLOWER;
use crate::Time;

/// After this long without a byte, the source is asked for its progress.
const ASK_AFTER: Duration = Duration::from_millis(250);
/// A source that does not answer within this time is dead.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_millis(400);
/// The interval between such questions.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// A source that says that it has more bytes is left after this long without any of them: the path does not carry them.
const STUCK_AFTER: Duration = Duration::from_millis(500);
/// A source that is waiting itself is left after this long without a byte.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// A source is slow once it has stayed ahead of this node for this long, while this node was starved.
const BEHIND_FOR: Duration = Duration::from_millis(1_500);
/// A source that is ahead by no more than this many bytes is not slow: one step of containerd's file.
const SMALL_LAG: u64 = 1024 * 1024;

/// What a source says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// It has the object, or is receiving it.
    Has {
        /// The bytes that are there.
        offset: u64,
        /// The rate at which it sends to all nodes together, in bytes per second, if it says so.
        sent: Option<u64>,
    },
    /// It does not have the object any more.
    Gone,
    /// It does not answer.
    Silent,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchAction {
    /// Wait for bytes until this time.
    WaitUntil(Time),
    /// Ask the source for its status.
    Ask,
    /// Leave the source.
    Leave,
}

/// The state of a node that receives far less than its link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Starved {
    /// The bandwidth of its link, in bytes per second.
    pub bandwidth: u64,
    /// For [`HELD_UP_FOR`](super::HELD_UP_FOR), the registry has given other nodes far more than this one receives.
    pub is_held_up: bool,
}

/// The watch over one source.
#[derive(Debug)]
pub struct SourceWatch {
    /// When the last bytes came, or the wait for bytes began.
    waits_since: Time,
    ask_at: Time,
    /// This node receives far less than its link carries.
    starved: Option<Starved>,
    /// Since when the source has been far ahead of a starved node, and for how much of that time the node waited for
    /// it.
    behind: Option<(Time, Duration)>,
    /// Since when the source has had more bytes, while none has arrived.
    ahead_since: Option<Time>,
    is_useless: bool,
}

impl SourceWatch {
    /// A watch that begins when the source answers.
    pub fn new(now: Time) -> Self {
        Self {
            waits_since: now,
            ask_at: now.after(ASK_AFTER),
            starved: None,
            behind: None,
            ahead_since: None,
            is_useless: false,
        }
    }

    /// The limit of a question to the source.
    pub fn answer_limit() -> Duration {
        ANSWER_LIMIT
    }

    /// Begins to wait for bytes. Before that, the client took none, so none were expected.
    pub fn begin_wait(&mut self, now: Time) {
        self.waits_since = now;
        self.ahead_since = None;
        if self.starved.is_none() {
            self.ask_at = now.after(ASK_AFTER);
        }
    }

    /// Records that bytes have arrived after a wait. `starved`: this node receives far less than its link carries.
    pub fn received(&mut self, waited: Duration, starved: Option<Starved>) {
        self.starved = starved;
        self.ahead_since = None;
        if starved.is_some_and(|starved| starved.is_held_up) {
            self.behind
                .get_or_insert((self.waits_since, Duration::ZERO));
        }
        match &mut self.behind {
            Some(_) if starved.is_none() => self.behind = None,
            Some((_, in_all)) => *in_all += waited,
            None => {}
        }
    }

    /// What to do while bytes are awaited.
    pub fn next(&self, now: Time) -> WatchAction {
        if self.is_useless || now.since(self.waits_since) >= WAIT_LIMIT {
            WatchAction::Leave
        } else if now >= self.ask_at {
            WatchAction::Ask
        } else {
            WatchAction::WaitUntil(self.ask_at)
        }
    }

    /// Whether the source is slow: it has far more bytes, and sends to all nodes together far less than this node's
    /// link carries. It is also slow if this node is held up: the registry gives more, whatever the source says. It is
    /// not if the client is the reason.
    pub fn is_slow(&self, now: Time) -> bool {
        self.behind.is_some_and(|(since, waited)| {
            let took = now.since(since);
            took >= BEHIND_FOR && waited * 2 >= took
        })
    }

    /// Handles the status of the source. `offset`: the bytes that this node has.
    pub fn answered(&mut self, now: Time, offset: u64, status: SourceStatus) {
        self.ask_at = now.after(ASK_EVERY);
        let SourceStatus::Has {
            offset: theirs,
            sent,
        } = status
        else {
            self.is_useless = true;
            return;
        };
        if theirs > offset {
            let since = *self.ahead_since.get_or_insert(now);
            self.is_useless = now.since(since) >= STUCK_AFTER;
        } else {
            self.ahead_since = None;
        }
        let is_slow = self.starved.is_some_and(|starved| {
            let sends_little =
                sent.is_some_and(|sent| sent.saturating_mul(SLOWER) < starved.bandwidth);
            starved.is_held_up || (sends_little && theirs.saturating_sub(offset) > SMALL_LAG)
        });
        if !is_slow {
            self.behind = None;
        } else {
            self.behind.get_or_insert((now, Duration::ZERO));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    fn has(offset: u64) -> SourceStatus {
        SourceStatus::Has { offset, sent: None }
    }

    /// Waits, and lets the source answer whenever it is asked. Returns when it is left.
    fn left_after(status: impl Fn(Time) -> Option<SourceStatus>) -> Option<Duration> {
        let mut watch = SourceWatch::new(Time(0));
        watch.begin_wait(Time(0));
        let mut now = Time(0);
        while now < Time(60_000) {
            match watch.next(now) {
                WatchAction::Leave => return Some(now.since(Time(0))),
                WatchAction::WaitUntil(at) => now = at,
                WatchAction::Ask => {
                    let status = status(now);
                    now = now.after(if status.is_some() { STEP } else { ANSWER_LIMIT });
                    watch.answered(now, 100, status.unwrap_or(SourceStatus::Silent));
                }
            }
        }
        None
    }

    #[test]
    fn a_dead_source_is_left_within_a_second() {
        assert_eq!(left_after(|_| None), Some(ASK_AFTER + ANSWER_LIMIT));
        assert!(left_after(|_| Some(SourceStatus::Gone)) < Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_source_whose_bytes_do_not_arrive_is_left() {
        let left = left_after(|_| Some(has(101)));
        assert!(
            left >= Some(STUCK_AFTER) && left <= Some(Duration::from_secs(1)),
            "{left:?}"
        );
    }

    #[test]
    fn a_source_that_waits_itself_is_waited_for() {
        let left = left_after(|_| Some(has(100)));
        let expected = Some(WAIT_LIMIT)..Some(WAIT_LIMIT + ASK_EVERY);
        assert!(expected.contains(&left), "{left:?}");
        let dies = |now| (now < Time(5_000)).then_some(has(100));
        let left = left_after(dies).expect("it dies");
        assert!(left < Duration::from_millis(6_500), "{left:?}");
    }

    /// Receives a little from a source that is far ahead. Returns whether the source is found slow.
    fn is_slow(bandwidth: Option<u64>, is_held_up: bool, waited: Duration, sent: u64) -> bool {
        let mut watch = SourceWatch::new(Time(0));
        (0..30).any(|step| {
            let now = Time(step * 100);
            watch.begin_wait(now);
            let starved = bandwidth.map(|bandwidth| Starved {
                bandwidth,
                is_held_up,
            });
            watch.received(waited, starved);
            if watch.next(now) == WatchAction::Ask {
                watch.answered(
                    now,
                    step,
                    SourceStatus::Has {
                        offset: if is_held_up { step } else { 1 << 30 },
                        sent: Some(sent),
                    },
                );
            }
            watch.is_slow(now)
        })
    }

    #[test]
    fn a_source_that_sends_far_less_than_it_has_is_slow() {
        assert!(is_slow(Some(9_000), false, STEP, 1_000));
        assert!(
            !is_slow(None, false, STEP, 1_000),
            "the link carries no more"
        );
        let takes_no_more = is_slow(Some(9_000), false, STEP / 4, 1_000);
        assert!(!takes_no_more, "the client takes no more");
        assert!(
            !is_slow(Some(9_000), false, STEP, 5_000),
            "its uplink is shared"
        );
    }

    #[test]
    fn a_source_that_claims_to_have_no_more_is_slow_for_a_node_that_is_held_up() {
        assert!(is_slow(Some(9_000), true, STEP, 9_000));
        assert!(
            !is_slow(Some(9_000), true, STEP / 4, 9_000),
            "the client takes no more"
        );
        assert!(
            !is_slow(None, true, STEP, 9_000),
            "the link carries no more"
        );
    }
}
