//! What the pull of each image has lost by waiting, compared with upstream alone: 2 s at most, because a pull must
//! never be worse off than without Peili. Waiting is free where upstream would have taken as long
//! ([`Ledger::free_wait`]).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::Time;
use crate::pull_rules::{CONTAINERD_SLOTS, STEPS};

/// The most that waiting may cost the pull of one image.
pub const BUDGET: Duration = Duration::from_secs(2);
/// A wait that ends with a source is free for this long: upstream's first byte takes as long.
pub const GRACE: Duration = Duration::from_millis(250);
/// The pull of an image has a new budget after this time without a request or report.
pub const RESET: Duration = Duration::from_secs(60);
/// The assumed time to upstream's first byte, until it is known.
const FIRST_BYTE_GUESS: Duration = Duration::from_secs(1);
/// The number of latest times to the first byte that count: one more than containerd has slots.
const FIRST_BYTES: usize = CONTAINERD_SLOTS + 1;
/// The most time that a slow upstream justifies waiting.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(20);
/// A node that failed as a leader does not lead in this repository for this long, unless upstream sends it something
/// before.
pub(crate) const LEADER_COOLDOWN: Duration = Duration::from_secs(3 * 60);
/// The most repositories and registries to remember.
const MAX_REPOSITORIES: usize = 1_024;
/// The shortest time until the next steps are due, at the average rate, and the longest. Until then a node counts as
/// receiving.
const STEP_MIN: Duration = Duration::from_millis(500);
const STEP_MAX: Duration = Duration::from_secs(15);
/// The time that the average of what a node receives covers, less at first.
const AVERAGED_OVER: Duration = Duration::from_secs(15);
/// Waiting costs nothing while the node receives this much, in bytes per second. If that is slow, the rules about slow
/// nodes and sources apply: otherwise the waiting nodes would share upstream, and be slower together.
const MIN_INTAKE: u64 = 64 * 1024;

/// The account of one pull.
#[derive(Debug)]
struct PullBudget {
    lost: Duration,
    /// The part of it that is not refunded: the wait was in vain.
    non_refundable: Duration,
    /// Waiting before this time has been charged.
    settled: Time,
    /// How long requests have waited for leaders without a charge, less the time in which this node received.
    waited_free: Duration,
    /// The last leader that this pull waited for failed, or the source that it was told to follow instead.
    last_lead_failed: bool,
    /// Upstream has failed this node, and has sent nothing since.
    upstream_fails: bool,
    used: Time,
}

/// The waiting requests of a pull: when the first one began, and until when waiting is free for all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    pub started: Time,
    pub free_until: Time,
}

/// The accounts of this node's image pulls, by the hash of the repository.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: BTreeMap<u64, PullBudget>,
    /// The latest times to upstream's first byte, by the hash of the registry.
    first_bytes: BTreeMap<u64, VecDeque<Duration>>,
    /// Repositories in which this node failed as a leader, and until when it should not lead, unless upstream sends it
    /// something before.
    leader_cooldown: BTreeMap<u64, Time>,
    intake: Intake,
    /// A pull of this node has begun, and goes on.
    pub has_pull: bool,
}

/// The rate at which this node receives from all sources.
#[derive(Debug, Default)]
struct Intake {
    /// The average rate, in bytes per second.
    average: u64,
    /// Since when bytes have arrived without a long pause.
    began: Option<Time>,
    observed: Time,
    /// More bytes are due by then.
    receives_until: Time,
}

impl Intake {
    /// Records the rate at which bytes arrive now, in bytes per second.
    fn observe(&mut self, now: Time, rate: u64) {
        let since = now.since(self.observed);
        self.observed = now;
        let has_paused = |_: &mut Time| now.since(self.receives_until) >= AVERAGED_OVER;
        self.began.take_if(has_paused);
        let over = now.since(*self.began.get_or_insert(now));
        if over.is_zero() {
            self.average = rate;
        } else {
            let before = over.min(AVERAGED_OVER).saturating_sub(since);
            let (since, before) = (since.as_millis(), before.as_millis());
            let (old, new) = (u128::from(self.average), u128::from(rate));
            let average = (old * before + new * since) / (before + since).max(1);
            self.average = u64::try_from(average).unwrap_or(u64::MAX);
        }
        if rate >= MIN_INTAKE {
            let step = Duration::from_millis(STEPS.saturating_mul(1_000) / self.average.max(1));
            self.receives_until = now.after(step.clamp(STEP_MIN, STEP_MAX));
        }
    }

    fn receives(&self, now: Time) -> bool {
        now < self.receives_until
    }
}

impl Ledger {
    /// The time that a request which has waited this long may still wait: what its pull may still lose. If upstream
    /// fails, other nodes are the only sources, and each request may lose as much.
    pub fn left(&self, repository: u64, waited: Duration) -> Duration {
        match self.accounts.get(&repository) {
            Some(account) if account.upstream_fails => BUDGET.saturating_sub(waited),
            Some(account) => BUDGET - account.lost,
            None => Duration::ZERO,
        }
    }

    /// What a pull has lost. Nothing if upstream fails.
    pub fn lost(&self, repository: u64) -> Duration {
        let account = self.accounts.get(&repository);
        account
            .filter(|account| !account.upstream_fails)
            .map_or(Duration::ZERO, |account| account.lost)
    }

    /// What a pull has lost in vain.
    pub fn non_refundable(&self, repository: u64) -> Duration {
        let account = self.accounts.get(&repository);
        account.map_or(BUDGET, |account| account.non_refundable)
    }

    /// Records that the pull goes on.
    pub fn touch(&mut self, now: Time, repository: u64) {
        let is_known = self.accounts.contains_key(&repository);
        if !is_known && self.accounts.len() >= MAX_REPOSITORIES {
            self.accounts.retain(|_, a| now.since(a.used) < RESET);
            if self.accounts.len() >= MAX_REPOSITORIES {
                return;
            }
        }
        let new = || PullBudget {
            lost: Duration::ZERO,
            non_refundable: Duration::ZERO,
            settled: now,
            waited_free: Duration::ZERO,
            last_lead_failed: false,
            upstream_fails: false,
            used: now,
        };
        let account = self.accounts.entry(repository).or_insert_with(new);
        if now.since(account.used) >= RESET {
            *account = new();
        }
        account.used = now;
    }

    /// Charges the waiting of requests from `free_until`, if any waits, up to `now`; they began at `started`. Returns
    /// since when waiting was charged, if it was.
    pub fn settle(&mut self, now: Time, repository: u64, waits: Option<Waits>) -> Option<Time> {
        let is_receiving = self.has_pull && self.intake.receives(now);
        let account = self.accounts.get_mut(&repository)?;
        let settled = std::mem::replace(&mut account.settled, now);
        if is_receiving {
            account.waited_free = account.waited_free.saturating_sub(now.since(settled));
        } else if let Some(waits) = waits {
            let free = waits.free_until.min(now).since(waits.started.max(settled));
            account.waited_free += free;
        }
        let waited = waits.map(|waits| now.since(waits.free_until.max(settled)));
        let charged = waited.filter(|_| !is_receiving)?;
        account.lost = (account.lost + charged).min(BUDGET);
        Some(settled)
    }

    /// Refunds the wait of a request: upstream would have taken as long, or others used its slot.
    pub fn refund(&mut self, repository: u64, waited: Duration) {
        if let Some(account) = self.accounts.get_mut(&repository) {
            account.lost = account
                .lost
                .saturating_sub(waited)
                .max(account.non_refundable);
        }
    }

    /// Charges, without refund, the wait of a request that found no source. `before`: the non-refundable loss when the
    /// request began.
    pub fn charge_in_vain(&mut self, repository: u64, before: Duration, waited: Duration) {
        if let Some(account) = self.accounts.get_mut(&repository) {
            account.lost = account.lost.max(before + waited).min(BUDGET);
            account.non_refundable = account.lost;
        }
    }

    /// Charges, without refund, what the pull has lost elsewhere: by peers that sent nothing, or too little.
    pub fn charge(&mut self, now: Time, repository: u64, lost: Duration) {
        self.touch(now, repository);
        if let Some(account) = self.accounts.get_mut(&repository) {
            account.lost = (account.lost + lost).min(BUDGET);
            account.non_refundable = (account.non_refundable + lost).min(account.lost);
        }
    }

    /// Records the rate at which this node receives from all sources, in bytes per second. Settle all accounts first.
    pub fn observe(&mut self, now: Time, intake: u64) {
        self.intake.observe(now, intake);
    }

    /// Records whether the leader that the pull waited for succeeded.
    pub fn record_lead(&mut self, repository: u64, succeeded: bool) {
        if let Some(account) = self.accounts.get_mut(&repository) {
            account.last_lead_failed = !succeeded;
        }
    }

    /// How long waiting for a leader is free:
    /// - for upstream's usual time to the first byte, beyond the guess, which is charged at first, and refunded
    ///   if the leader succeeds;
    /// - then for the `first_steps` that a leader can show, less the pull's free waiting before (`waited_free`):
    ///   an arbiter that lies costs that time once, not for each object;
    /// - not at all after a leader that failed, so that a series of them costs no more than the budget.
    pub fn free_wait(
        &self,
        (repository, registry): (u64, u64),
        first_steps: Duration,
        waited_free: Duration,
    ) -> Duration {
        match self.accounts.get(&repository) {
            Some(account) if account.last_lead_failed => Duration::ZERO,
            _ => {
                let first_steps = first_steps.saturating_sub(waited_free);
                first_steps + self.first_byte(registry).saturating_sub(FIRST_BYTE_GUESS)
            }
        }
    }

    /// How long the pull has waited for leaders without a charge, less the time in which this node received.
    pub fn waited_free(&self, repository: u64) -> Duration {
        let account = self.accounts.get(&repository);
        account.map_or(Duration::ZERO, |account| account.waited_free)
    }

    /// The usual time to upstream's first byte: twice the shortest of the latest ones, as the next may take longer. The
    /// others may have waited for a slot of containerd, or for the end of an outage.
    pub fn first_byte(&self, registry: u64) -> Duration {
        let latest = self.first_bytes.get(&registry);
        let shortest = latest.filter(|l| l.len() > 1).and_then(|l| l.iter().min());
        let twice = shortest.map_or(Duration::ZERO, |shortest| *shortest * 2);
        twice.clamp(FIRST_BYTE_GUESS, FIRST_BYTE_MAX)
    }

    /// Records whether upstream sends anything of the repository. If it does, this node can lead again: the registry was
    /// away, or it refused one object.
    pub fn record_upstream(&mut self, repository: u64, sends: bool) {
        if sends {
            self.leader_cooldown.remove(&repository);
        }
        if let Some(account) = self.accounts.get_mut(&repository) {
            account.upstream_fails = !sends;
        }
    }

    /// Learns the time to upstream's first byte.
    pub fn learn_first_byte(&mut self, registry: u64, took: Duration) {
        if self.first_bytes.len() >= MAX_REPOSITORIES && !self.first_bytes.contains_key(&registry) {
            return;
        }
        let latest = self.first_bytes.entry(registry).or_default();
        latest.truncate(FIRST_BYTES - 1);
        latest.push_front(took.min(FIRST_BYTE_MAX));
    }

    /// Starts the leader cooldown: this node has failed as a leader.
    pub fn start_leader_cooldown(&mut self, now: Time, repository: u64) {
        if self.leader_cooldown.len() >= MAX_REPOSITORIES {
            self.leader_cooldown.retain(|_, until| *until > now);
        }
        if self.leader_cooldown.len() < MAX_REPOSITORIES {
            self.leader_cooldown
                .insert(repository, now.after(LEADER_COOLDOWN));
        }
    }

    pub fn in_leader_cooldown(&self, now: Time, repository: u64) -> bool {
        self.leader_cooldown
            .get(&repository)
            .is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn left(ledger: &Ledger, repository: u64) -> Duration {
        ledger.left(repository, Duration::ZERO)
    }

    fn waits(from: u64) -> Waits {
        Waits {
            started: Time(from),
            free_until: Time(from),
        }
    }

    /// Charges a wait of repository 1.
    fn charge(ledger: &mut Ledger, from: u64, to: u64) {
        ledger.settle(Time(from), 1, None);
        ledger.settle(Time(to), 1, Some(waits(from)));
    }

    #[test]
    fn a_pull_may_lose_two_seconds_and_the_next_one_again() {
        let mut ledger = Ledger::default();
        assert_eq!(
            left(&ledger, 1),
            Duration::ZERO,
            "no account before the first request"
        );
        ledger.touch(Time(0), 1);
        ledger.touch(Time(0), 2);
        charge(&mut ledger, 0, 500);
        charge(&mut ledger, 600, 700);
        assert_eq!(left(&ledger, 1), 1_400 * MILLI);
        assert_eq!(left(&ledger, 2), BUDGET, "another pull");
        charge(&mut ledger, 700, 9_000);
        assert_eq!(left(&ledger, 1), Duration::ZERO);
        ledger.touch(Time(9_000), 1);
        ledger.touch(Time(9_000).after(RESET), 1);
        assert_eq!(left(&ledger, 1), BUDGET);
    }

    #[test]
    fn a_node_that_upstream_sends_something_can_lead_again() {
        let mut ledger = Ledger::default();
        ledger.touch(Time(0), 1);
        ledger.start_leader_cooldown(Time(0), 1);
        ledger.start_leader_cooldown(Time(0), 2);
        ledger.record_upstream(1, false);
        assert!(ledger.in_leader_cooldown(Time(1), 1));
        ledger.record_upstream(1, true);
        assert!(!ledger.in_leader_cooldown(Time(1), 1));
        assert!(ledger.in_leader_cooldown(Time(1), 2), "another repository");
    }

    #[test]
    fn where_upstream_has_failed_other_nodes_are_waited_for() {
        let mut ledger = Ledger::default();
        ledger.touch(Time(0), 1);
        charge(&mut ledger, 0, 9_000);
        assert_eq!(left(&ledger, 1), Duration::ZERO);
        ledger.record_upstream(1, false);
        let waited = 500 * MILLI;
        assert_eq!(ledger.left(1, waited), BUDGET - waited, "each request");
        ledger.record_upstream(1, true);
        assert_eq!(left(&ledger, 1), Duration::ZERO);
    }

    #[test]
    fn waiting_costs_nothing_while_something_arrives() {
        let mut ledger = Ledger::default();
        ledger.touch(Time(0), 1);
        let mut wait = |intake| {
            ledger.intake = Intake::default();
            ledger.has_pull = true;
            ledger.refund(1, BUDGET);
            ledger.observe(Time(0), intake);
            ledger.settle(Time(0), 1, None);
            ledger.settle(Time(400), 1, Some(waits(0)));
            ledger.accounts.get_mut(&1).expect("touched").settled = Time(0);
            BUDGET - left(&ledger, 1)
        };
        assert_eq!(wait(MIN_INTAKE), Duration::ZERO);
        assert_eq!(wait(MIN_INTAKE - 1), 400 * MILLI);
    }

    /// The links have 100 Mbit/s, 4 Mbit/s, and the lowest rate that counts. Bytes come in steps.
    #[test]
    fn the_next_step_is_waited_for_in_proportion_to_the_rate() {
        for (rate, covered) in [
            (12_500_000, STEP_MIN),
            (500_000, Duration::from_millis(6_291)),
            (MIN_INTAKE, STEP_MAX),
        ] {
            let mut intake = Intake::default();
            for at in (0..60_000).step_by(250) {
                intake.observe(Time(at), rate);
            }
            // The average is rounded.
            let (before, after) = (Time(59_740), Time(59_760));
            assert!(intake.receives(before.after(covered)), "{rate}");
            assert!(!intake.receives(after.after(covered)), "{rate}");
        }
        let mut intake = Intake::default();
        for step in 0..40 {
            // A step of 1 MiB in a second, then nothing for three.
            for at in 0..16 {
                let now = Time(step * 4_000 + at * 250);
                assert!(step < 2 || intake.receives(now), "{step}, {at}");
                intake.observe(now, if at < 4 { 1024 * 1024 } else { 0 });
            }
        }
    }

    #[test]
    fn what_one_request_has_waited_in_vain_is_charged_whatever_another_one_found() {
        let mut ledger = Ledger::default();
        ledger.touch(Time(0), 1);
        let before = ledger.non_refundable(1);
        charge(&mut ledger, 0, 1_000);
        ledger.refund(1, 900 * MILLI);
        assert_eq!(left(&ledger, 1), BUDGET - 100 * MILLI);
        ledger.charge_in_vain(1, before, 1_000 * MILLI);
        ledger.refund(1, 900 * MILLI);
        assert_eq!(left(&ledger, 1), BUDGET - 1_000 * MILLI);
    }

    #[test]
    fn what_peers_have_cost_is_lost_here_too() {
        let mut ledger = Ledger::default();
        ledger.charge(Time(0), 1, 700 * MILLI);
        assert_eq!(left(&ledger, 1), BUDGET - 700 * MILLI);
        charge(&mut ledger, 0, 1_000);
        ledger.refund(1, BUDGET);
        assert_eq!(
            left(&ledger, 1),
            BUDGET - 700 * MILLI,
            "it is not taken back"
        );
        ledger.charge(Time(0), 1, BUDGET);
        assert_eq!(left(&ledger, 1), Duration::ZERO);
    }

    fn free_wait(ledger: &Ledger) -> Duration {
        ledger.free_wait((1, 7), Duration::ZERO, Duration::ZERO)
    }

    #[test]
    fn a_slow_upstream_is_learned_and_forgotten_again() {
        let mut ledger = Ledger::default();
        for _ in 0..20 {
            ledger.learn_first_byte(7, Duration::from_secs(4));
        }
        assert!(ledger.first_byte(7) > Duration::from_secs(7));
        assert!(free_wait(&ledger) > Duration::from_secs(6));
        ledger.learn_first_byte(7, 50 * MILLI);
        assert_eq!(ledger.first_byte(7), FIRST_BYTE_GUESS);
        assert_eq!(ledger.first_byte(8), FIRST_BYTE_GUESS);
    }

    /// Three layers begin. The others wait until one of them is complete, or upstream fails for a while.
    #[test]
    fn what_waits_for_a_slot_or_during_an_outage_makes_no_registry_slow() {
        let mut ledger = Ledger::default();
        ledger.touch(Time(0), 1);
        ledger.learn_first_byte(7, Duration::from_secs(15));
        assert_eq!(free_wait(&ledger), Duration::ZERO, "a single one");
        for _ in 0..9 {
            ledger.learn_first_byte(7, 200 * MILLI);
            for _ in 0..3 {
                ledger.learn_first_byte(7, Duration::from_secs(15));
            }
            assert_eq!(free_wait(&ledger), Duration::ZERO);
        }
    }

    #[test]
    fn after_a_lead_that_failed_nothing_is_free() {
        let mut ledger = Ledger::default();
        ledger.touch(Time(0), 1);
        for _ in 0..2 {
            ledger.learn_first_byte(7, Duration::from_secs(4));
        }
        assert!(free_wait(&ledger) > FIRST_BYTE_GUESS);
        ledger.record_lead(1, false);
        assert_eq!(
            ledger.free_wait((1, 7), BUDGET, Duration::ZERO),
            Duration::ZERO
        );
        ledger.record_lead(1, true);
        assert!(free_wait(&ledger) > FIRST_BYTE_GUESS);
    }

    #[test]
    fn what_a_slow_upstream_makes_free_is_free_once_and_again_for_as_long_as_bytes_arrive() {
        let mut ledger = Ledger::default();
        ledger.touch(Time(0), 1);
        let first_steps = Duration::from_secs(12);
        let now = Cell::new(0);
        let wait = |ledger: &mut Ledger| {
            let before = ledger.waited_free(1);
            let free = ledger.free_wait((1, 7), first_steps, before);
            let waits = Waits {
                started: Time(now.get()),
                free_until: Time(now.get()).after(free),
            };
            ledger.settle(waits.started, 1, None);
            now.set(waits.free_until.0);
            ledger.settle(waits.free_until, 1, Some(waits));
            free
        };
        assert_eq!(wait(&mut ledger), first_steps);
        assert_eq!(wait(&mut ledger), Duration::ZERO, "the next object");
        assert_eq!(left(&ledger, 1), BUDGET);
        ledger.has_pull = true;
        ledger.observe(Time(12_000), MIN_INTAKE);
        ledger.settle(Time(17_000), 1, None);
        ledger.has_pull = false;
        now.set(17_000);
        let received_for = Duration::from_secs(5);
        assert_eq!(wait(&mut ledger), received_for, "bytes have arrived");
    }
}
