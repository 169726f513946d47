//! Checks whether a peer sends as fast as upstream would, and what it costs the pull if it does not.

use std::time::Duration;

use crate::attempts::Attempts;
use crate::flights::pull_rules::STEP;

/// The cost of a peer to a pull at which the peer is left, so that another one may do better before the budget is
/// spent.
const MAX_COST: Duration = Duration::from_secs(1);
/// The most credit for bytes that come faster than required, which pays for later waiting.
const MAX_CREDIT: Duration = Duration::from_millis(250);
/// The same for peers that are still receiving the object: a step of containerd's, or this long. They may wait for the
/// first bytes of a leader themselves. [`SourceWatch`](crate::flights::SourceWatch) leaves one that is dead or does not
/// send what it has. A body has this credit once, whatever its sources, and none if another body of the pull has used
/// it in vain: a source that sends nothing costs the pull this time once.
const GROWING_CREDIT: Duration = Duration::from_secs(20);

/// The check of one peer.
#[derive(Debug, Default)]
pub struct RateCheck {
    credit: Duration,
    cost: Duration,
    /// A growing source has used its credit.
    has_grown: bool,
    /// The bytes received from growing sources.
    grown: u64,
}

impl RateCheck {
    /// The limit for the next bytes, after which the peer has cost too much.
    pub fn max_wait(&mut self, attempts: &Attempts, grows: bool) -> Duration {
        let begins = grows && !std::mem::replace(&mut self.has_grown, true);
        if begins && attempts.budget().waits_for_growing() {
            self.credit = GROWING_CREDIT;
        }
        self.credit + MAX_COST.saturating_sub(self.cost)
    }

    /// Records a change of the source. The pull's credit remains.
    pub fn change_source(&mut self) {
        self.credit = self.credit.min(GROWING_CREDIT);
        self.cost = Duration::ZERO;
    }

    /// Records the bytes after a wait, if any, and charges the time that upstream would not have needed. Returns
    /// whether the peer has cost too much. Time in which the client accepts no bytes does not count as waiting.
    pub fn add(&mut self, attempts: &Attempts, waited: Duration, bytes: u64, grows: bool) -> bool {
        let required = attempts.required(grows);
        let time = |bytes: u64| Duration::from_micros(bytes.saturating_mul(1_000_000) / required);
        let paid = self.credit + time(bytes);
        let most = match grows {
            true => time(STEP).max(GROWING_CREDIT),
            false => MAX_CREDIT,
        };
        self.credit = paid.saturating_sub(waited).min(most);
        let late = waited.saturating_sub(paid);
        if !late.is_zero() {
            attempts.budget().charge(late);
            self.cost += late;
        }
        let costs_too_much = self.cost >= MAX_COST;
        if grows {
            self.grown += bytes;
            let has_sent = self.grown >= STEP;
            if has_sent || costs_too_much {
                attempts.budget().set_waits_for_growing(has_sent);
            }
        }
        costs_too_much
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry_speeds::MIN_RATE;

    /// Receives this many bytes a second in steps of 100 ms of virtual time. Returns when the peer is left.
    async fn left_after(rate: u64, grows: bool) -> Option<Duration> {
        let (mut check, attempts) = (RateCheck::default(), Attempts::default());
        let step = Duration::from_millis(100);
        for number in 1..3_000 {
            tokio::time::advance(step).await;
            if check.add(&attempts, step, rate / 10, grows) {
                return Some(step * number);
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_trickles_is_left_within_seconds_and_one_that_suffices_is_kept() {
        for grows in [false, true] {
            assert_eq!(left_after(MIN_RATE + 10, grows).await, None);
            let trickle = left_after(8 * 1024, grows).await.expect("left");
            assert!(trickle < Duration::from_millis(1_400), "{trickle:?}");
        }
    }

    /// One of three bodies that wait at the same time, and those that follow.
    #[tokio::test(start_paused = true)]
    async fn sources_that_only_claim_to_grow_cost_a_pull_their_credit_once() {
        let attempts = Attempts::default();
        let left_after = |grown: u64| {
            let mut check = RateCheck::default();
            check.add(&attempts, Duration::ZERO, grown, true);
            let wait = check.max_wait(&attempts, true);
            assert!(check.add(&attempts, wait, 0, true));
            wait
        };
        assert!(left_after(0) > GROWING_CREDIT);
        assert!(left_after(0) <= MAX_COST + MAX_CREDIT, "the next one");
        assert!(left_after(STEP) > GROWING_CREDIT, "it has sent something");
    }

    /// A slow uplink of 1 Mbit/s, a third of which is the stream's, and steps of 1 MiB.
    #[tokio::test(start_paused = true)]
    async fn steps_of_containerd_are_no_silence() {
        let (mut check, attempts) = (RateCheck::default(), Attempts::default());
        let _streams = [(); 3].map(|()| attempts.begin_stream());
        for _ in 0..20 {
            assert!(!check.add(&attempts, Duration::ZERO, STEP, true));
            for _ in 0..30 {
                tokio::time::advance(Duration::from_secs(1)).await;
                assert!(!check.add(&attempts, Duration::from_secs(1), 0, true));
            }
        }
        assert!(!attempts.are_spent());
    }
}
