//! The budget of an image pull for waiting: 2 s in all, because a pull must never be worse off than without Peili.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Time;

/// The most time that waiting may add to the pull of one image.
pub const BUDGET: Duration = Duration::from_secs(2);
/// The assumed time to upstream's first byte, until it is known.
pub(crate) const FIRST_BYTE_GUESS: Duration = Duration::from_secs(1);
/// The most time that a slow upstream justifies waiting.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(20);
/// A budget is full again after this time without a request or report of the pull.
const BUDGET_RESET: Duration = Duration::from_secs(60);
/// A node that failed as a leader does not lead in this repository for this long.
pub(crate) const LEADER_COOLDOWN: Duration = Duration::from_secs(3 * 60);
/// The most repositories and registries to remember.
const MAX_REPOSITORIES: usize = 1_024;
/// The most spans of charged waiting to keep. With more, overlapping waiting may be charged twice.
const MAX_SPANS: usize = 32;

#[derive(Debug)]
struct RepositoryBudget {
    spent: Duration,
    /// The spans that were charged. Requests that wait at the same time are charged once.
    counted: Vec<(Time, Time)>,
    /// The last leader that this pull waited for failed.
    last_lead_failed: bool,
    /// The last request without time to wait was not answered at once.
    arbiter_silent: bool,
    used: Time,
}

impl RepositoryBudget {
    fn count(&mut self, from: Time, to: Time) {
        if to <= from {
            return;
        }
        let (mut first, mut last, mut known) = (from, to, Duration::ZERO);
        self.counted.retain(|(start, end)| {
            let is_apart = *end < from || *start > to;
            if !is_apart {
                known += end.since(*start);
                (first, last) = (first.min(*start), last.max(*end));
            }
            is_apart
        });
        self.spent = (self.spent + last.since(first).saturating_sub(known)).min(BUDGET);
        if self.counted.len() >= MAX_SPANS {
            self.counted.remove(0);
        }
        self.counted.push((first, last));
    }
}

/// The budgets of this node's image pulls, by the hash of the repository.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    repositories: BTreeMap<u64, RepositoryBudget>,
    /// The smoothed time to upstream's first byte, in milliseconds, by the hash of the registry.
    first_byte: BTreeMap<u64, u64>,
    /// Repositories in which this node failed as a leader, and until when it should not lead.
    leader_cooldown: BTreeMap<u64, Time>,
    /// Whether this node counts as slow.
    pub is_slow: bool,
}

impl Budgets {
    /// The time that a pull may still wait.
    pub fn left(&self, repository: u64) -> Duration {
        let budget = self.repositories.get(&repository);
        budget.map_or(Duration::ZERO, |budget| BUDGET - budget.spent)
    }

    /// Records that the pull goes on.
    pub fn touch(&mut self, now: Time, repository: u64) {
        let is_known = self.repositories.contains_key(&repository);
        if !is_known && self.repositories.len() >= MAX_REPOSITORIES {
            self.repositories
                .retain(|_, a| now.since(a.used) < BUDGET_RESET);
            if self.repositories.len() >= MAX_REPOSITORIES {
                return;
            }
        }
        let new = || RepositoryBudget {
            spent: Duration::ZERO,
            counted: Vec::new(),
            last_lead_failed: false,
            arbiter_silent: false,
            used: now,
        };
        let budget = self.repositories.entry(repository).or_insert_with(new);
        if now.since(budget.used) >= BUDGET_RESET {
            *budget = new();
        }
        budget.used = now;
    }

    /// Charges a span of waiting.
    pub fn charge(&mut self, repository: u64, from: Time, to: Time) {
        if let Some(budget) = self.repositories.get_mut(&repository) {
            budget.count(from, to);
        }
    }

    /// Charges waiting that was free until the leader failed. `reserve` stays in the budget if it was there.
    pub fn charge_failed(&mut self, repository: u64, from: Time, to: Time, reserve: Duration) {
        if let Some(budget) = self.repositories.get_mut(&repository) {
            let before = budget.spent;
            budget.count(from, to);
            budget.spent = budget.spent.min((BUDGET - reserve).max(before));
        }
    }

    /// Records whether the leader that the pull waited for succeeded.
    pub fn record_lead(&mut self, repository: u64, succeeded: bool) {
        if let Some(budget) = self.repositories.get_mut(&repository) {
            budget.last_lead_failed = !succeeded;
        }
    }

    /// Records whether a request without time to wait was answered at once.
    pub fn set_arbiter_silent(&mut self, repository: u64, arbiter_silent: bool) {
        if let Some(budget) = self.repositories.get_mut(&repository) {
            budget.arbiter_silent = arbiter_silent;
        }
    }

    /// Whether requests without time to wait are useless.
    pub fn is_arbiter_silent(&self, repository: u64) -> bool {
        self.repositories
            .get(&repository)
            .is_none_or(|budget| budget.arbiter_silent)
    }

    /// How long waiting for a live leader is free: as long as upstream would have taken.
    ///
    /// After a failed leader only what upstream takes beyond the guess is free, so that a series of failing leaders
    /// costs no more than the budget.
    pub fn free_wait(&self, repository: u64, registry: u64) -> Duration {
        let first_byte = self.first_byte(registry);
        match self.repositories.get(&repository) {
            Some(budget) if budget.last_lead_failed => first_byte.saturating_sub(FIRST_BYTE_GUESS),
            _ => first_byte,
        }
    }

    /// The usual time to upstream's first byte.
    fn first_byte(&self, registry: u64) -> Duration {
        let first_byte = self.first_byte.get(&registry).copied();
        first_byte.map_or(FIRST_BYTE_GUESS, Duration::from_millis)
    }

    /// Learns the time to upstream's first byte.
    pub fn learn_first_byte(&mut self, registry: u64, took: Duration) {
        if self.first_byte.len() >= MAX_REPOSITORIES && !self.first_byte.contains_key(&registry) {
            return;
        }
        let was = self.first_byte(registry);
        // Twice the time seen, as the next may be slower; never less than the guess.
        let seen = took
            .saturating_mul(2)
            .clamp(FIRST_BYTE_GUESS, FIRST_BYTE_MAX);
        let millis = (was * 3 + seen).as_millis() / 4;
        self.first_byte
            .insert(registry, u64::try_from(millis).unwrap_or(u64::MAX));
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_waited_at_the_same_time_counts_once() {
        let mut budgets = Budgets::default();
        assert_eq!(
            budgets.left(1),
            Duration::ZERO,
            "no budget before the first request"
        );
        budgets.touch(Time(0), 1);
        budgets.touch(Time(0), 2);
        budgets.charge(1, Time(0), Time(500));
        budgets.charge(1, Time(100), Time(600));
        assert_eq!(budgets.left(1), Duration::from_millis(1_400));
        assert_eq!(budgets.left(2), BUDGET, "another pull");
        budgets.charge(1, Time(600), Time(9_000));
        assert_eq!(budgets.left(1), Duration::ZERO);
        budgets.touch(Time(9_000), 1);
        budgets.touch(Time(9_000).after(BUDGET_RESET), 1);
        assert_eq!(budgets.left(1), BUDGET, "the next pull");
    }

    proptest! {
        #[test]
        fn each_moment_counts_once(spans in prop::collection::vec((0_u64..60, 0_u64..20), 0..20)) {
            let mut budgets = Budgets::default();
            budgets.touch(Time(0), 1);
            let mut moments = std::collections::BTreeSet::new();
            for (from, long) in spans {
                budgets.charge(1, Time(from), Time(from + long));
                moments.extend(from..from + long);
            }
            let spent = Duration::from_millis(moments.len() as u64);
            prop_assert_eq!(budgets.left(1), BUDGET - spent);
        }
    }

    #[test]
    fn a_slow_upstream_is_learned_and_forgotten_again() {
        let mut budgets = Budgets::default();
        for _ in 0..20 {
            budgets.learn_first_byte(7, Duration::from_secs(4));
        }
        assert!(budgets.first_byte(7) > Duration::from_secs(7));
        for _ in 0..40 {
            budgets.learn_first_byte(7, Duration::from_millis(50));
        }
        assert!(budgets.first_byte(7) < FIRST_BYTE_GUESS + Duration::from_millis(10));
        assert_eq!(budgets.first_byte(8), FIRST_BYTE_GUESS);
    }

    #[test]
    fn after_a_lead_that_failed_only_what_is_known_of_upstream_is_free() {
        let mut budgets = Budgets::default();
        budgets.touch(Time(0), 1);
        assert_eq!(budgets.free_wait(1, 7), FIRST_BYTE_GUESS);
        budgets.record_lead(1, false);
        assert_eq!(budgets.free_wait(1, 7), Duration::ZERO);
        budgets.learn_first_byte(7, Duration::from_secs(4));
        assert!(budgets.free_wait(1, 7) > FIRST_BYTE_GUESS);
        budgets.record_lead(1, true);
        assert!(budgets.free_wait(1, 7) > 2 * FIRST_BYTE_GUESS);
    }
}
