//! What waiting may cost an image pull: 2 s in all, by the rule that a pull is never worse off than without us.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Time;

/// What waiting may add to the pull of one image.
pub const BUDGET: Duration = Duration::from_secs(2);
/// What upstream is taken to need for its first byte, until it is known.
pub(crate) const USUAL_GUESS: Duration = Duration::from_secs(1);
/// No upstream is waited for longer on the ground that it is always slow.
const USUAL_MOST: Duration = Duration::from_secs(20);
/// A pull of which nothing was heard for this long is over.
const FORGET: Duration = Duration::from_secs(60);
/// Who failed does not lead in this group for so long.
pub(crate) const BARRED: Duration = Duration::from_secs(3 * 60);
/// Pulls and registries remembered at once.
const MAX_ACCOUNTS: usize = 1_024;
/// Spans of counted waiting that are kept to find out what was counted already. With more, some would count twice.
const MAX_SPANS: usize = 32;

#[derive(Debug)]
struct Account {
    spent: Duration,
    /// Waiting that is counted: what several requests wait at the same time counts once.
    counted: Vec<(Time, Time)>,
    /// The last lead that was waited for came to nothing.
    is_unlucky: bool,
    /// The last question without time to wait was not answered at once.
    is_mute: bool,
    used: Time,
}

impl Account {
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

/// The accounts of the image pulls of this node, by the hash of registry and repository.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    accounts: BTreeMap<u64, Account>,
    /// Milliseconds to upstream's first byte, smoothed, by the hash of the registry.
    usual: BTreeMap<u64, u64>,
    /// Groups in which this node has led in vain, until when it is not to do so again.
    barred: BTreeMap<u64, Time>,
    /// Others are held up behind this node.
    pub lags: bool,
}

impl Budgets {
    /// What a pull may still wait.
    pub fn left(&self, group: u64) -> Duration {
        let account = self.accounts.get(&group);
        account.map_or(Duration::ZERO, |account| BUDGET - account.spent)
    }

    /// The pull goes on.
    pub fn touch(&mut self, now: Time, group: u64) {
        let is_known = self.accounts.contains_key(&group);
        if !is_known && self.accounts.len() >= MAX_ACCOUNTS {
            self.accounts.retain(|_, a| now.since(a.used) < FORGET);
            if self.accounts.len() >= MAX_ACCOUNTS {
                return;
            }
        }
        let new = || Account {
            spent: Duration::ZERO,
            counted: Vec::new(),
            is_unlucky: false,
            is_mute: false,
            used: now,
        };
        let account = self.accounts.entry(group).or_insert_with(new);
        if now.since(account.used) >= FORGET {
            *account = new();
        }
        account.used = now;
    }

    /// A request of the pull has waited in vain from one moment to another.
    pub fn charge(&mut self, group: u64, from: Time, to: Time) {
        if let Some(account) = self.accounts.get_mut(&group) {
            account.count(from, to);
        }
    }

    /// A lead that was waited for in vain at no charge is charged after all; `reserve` is left of what was.
    pub fn charge_lost(&mut self, group: u64, from: Time, to: Time, reserve: Duration) {
        if let Some(account) = self.accounts.get_mut(&group) {
            let before = account.spent;
            account.count(from, to);
            account.spent = account.spent.min((BUDGET - reserve).max(before));
        }
    }

    /// A lead that the pull waited for has come to something, or has not.
    pub fn led(&mut self, group: u64, well: bool) {
        if let Some(account) = self.accounts.get_mut(&group) {
            account.is_unlucky = !well;
        }
    }

    /// A question without time to wait was answered at once, or was not.
    pub fn mute(&mut self, group: u64, is_mute: bool) {
        if let Some(account) = self.accounts.get_mut(&group) {
            account.is_mute = is_mute;
        }
    }

    /// Whether there is no use in asking without time to wait.
    pub fn is_mute(&self, group: u64) -> bool {
        self.accounts
            .get(&group)
            .is_none_or(|account| account.is_mute)
    }

    /// How long a live lead is waited for at no charge: as long as upstream would have taken. After one that failed
    /// it is what upstream is known to take beyond the guess, so that leads that fail one after the other cost no more
    /// than the budget.
    pub fn credit(&self, group: u64, registry: u64) -> Duration {
        let usual = self.usual(registry);
        match self.accounts.get(&group) {
            Some(account) if account.is_unlucky => usual.saturating_sub(USUAL_GUESS),
            _ => usual,
        }
    }

    /// What upstream usually takes to its first byte.
    fn usual(&self, registry: u64) -> Duration {
        let usual = self.usual.get(&registry).copied();
        usual.map_or(USUAL_GUESS, Duration::from_millis)
    }

    /// Upstream took so long to its first byte.
    pub fn learn(&mut self, registry: u64, took: Duration) {
        if self.usual.len() >= MAX_ACCOUNTS && !self.usual.contains_key(&registry) {
            return;
        }
        let was = self.usual(registry);
        // Twice what was seen, for the next may be slower; never less than the guess.
        let seen = took.saturating_mul(2).clamp(USUAL_GUESS, USUAL_MOST);
        let millis = (was * 3 + seen).as_millis() / 4;
        self.usual
            .insert(registry, u64::try_from(millis).unwrap_or(u64::MAX));
    }

    /// This node has led in vain.
    pub fn bar(&mut self, now: Time, group: u64) {
        if self.barred.len() >= MAX_ACCOUNTS {
            self.barred.retain(|_, until| *until > now);
        }
        if self.barred.len() < MAX_ACCOUNTS {
            self.barred.insert(group, now.after(BARRED));
        }
    }

    pub fn is_barred(&self, now: Time, group: u64) -> bool {
        self.barred.get(&group).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_waited_at_the_same_time_counts_once() {
        let mut budgets = Budgets::default();
        assert_eq!(budgets.left(1), Duration::ZERO, "no account, no credit");
        budgets.touch(Time(0), 1);
        budgets.touch(Time(0), 2);
        budgets.charge(1, Time(0), Time(500));
        budgets.charge(1, Time(100), Time(600));
        assert_eq!(budgets.left(1), Duration::from_millis(1_400));
        assert_eq!(budgets.left(2), BUDGET, "another pull");
        budgets.charge(1, Time(600), Time(9_000));
        assert_eq!(budgets.left(1), Duration::ZERO);
        budgets.touch(Time(9_000), 1);
        budgets.touch(Time(9_000).after(FORGET), 1);
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
            budgets.learn(7, Duration::from_secs(4));
        }
        assert!(budgets.usual(7) > Duration::from_secs(7));
        for _ in 0..40 {
            budgets.learn(7, Duration::from_millis(50));
        }
        assert!(budgets.usual(7) < USUAL_GUESS + Duration::from_millis(10));
        assert_eq!(budgets.usual(8), USUAL_GUESS);
    }

    #[test]
    fn after_a_lead_that_failed_only_what_is_known_of_upstream_is_free() {
        let mut budgets = Budgets::default();
        budgets.touch(Time(0), 1);
        assert_eq!(budgets.credit(1, 7), USUAL_GUESS);
        budgets.led(1, false);
        assert_eq!(budgets.credit(1, 7), Duration::ZERO);
        budgets.learn(7, Duration::from_secs(4));
        assert!(budgets.credit(1, 7) > USUAL_GUESS);
        budgets.led(1, true);
        assert!(budgets.credit(1, 7) > 2 * USUAL_GUESS);
    }
}
