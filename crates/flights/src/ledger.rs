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
    /// This node's mirror has just begun to pull from upstream, which takes as long without a mirror.
    pub mirror_begins: bool,
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
        let is_free = self.waits_free(now);
        let account = self.accounts.get_mut(&repository)?;
        let settled = std::mem::replace(&mut account.settled, now);
        if is_free {
            account.waited_free = account.waited_free.saturating_sub(now.since(settled));
        } else if let Some(waits) = waits {
            let free = waits.free_until.min(now).since(waits.started.max(settled));
            account.waited_free += free;
        }
        let waited = waits.map(|waits| now.since(waits.free_until.max(settled)));
        let charged = waited.filter(|_| !is_free)?;
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

    /// Whether waiting costs nothing now: this node receives other objects, or its mirror is about to.
    pub fn waits_free(&self, now: Time) -> bool {
        self.mirror_begins || (self.has_pull && self.intake.receives(now))
    }

    /// Until when waiting costs nothing if no more bytes arrive. `None`: that is open, or it costs already.
    pub fn waits_free_until(&self) -> Option<Time> {
        let receives = self.has_pull && !self.mirror_begins;
        receives.then_some(self.intake.receives_until)
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
mod tests;
