//! Determines which members are eligible as owners: those that have been in the cluster long enough.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::members::Member;
use crate::time::millis;
use crate::{Born, NodeId, Time};

/// A member younger than this is not eligible.
pub const ELIGIBLE_AFTER: Duration = Duration::from_secs(10);
/// Members become eligible together, in rounds this far apart.
pub const ROUND: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
struct Age {
    born: Born,
    eligible: bool,
}

/// The age of each member, and which members are eligible.
///
/// A member becomes eligible at the first round after [`ELIGIBLE_AFTER`]. All nodes share the clock of rounds to within
/// the latency of a message: it is the age of the oldest member. Rounds are [`ROUND`] apart, half a round off its
/// birth, so that members that started with it do not fall on a round. So members that join in a crowd become owners at
/// the same moment in every node's view, not one by one in orders that differ between views.
#[derive(Clone, Debug, Default)]
pub(super) struct Eligibility {
    ages: BTreeMap<NodeId, Age>,
    by_age: BTreeSet<(Born, NodeId)>,
    /// The members of `by_age` that are not eligible.
    young: BTreeSet<(Born, NodeId)>,
}

impl Eligibility {
    /// Adds a member, or changes its age.
    pub(super) fn set(&mut self, id: NodeId, born: Born) {
        let eligible = match self.ages.get(&id) {
            Some(age) => {
                self.by_age.remove(&(age.born, id));
                self.young.remove(&(age.born, id));
                age.eligible
            }
            None => false,
        };
        self.ages.insert(id, Age { born, eligible });
        self.by_age.insert((born, id));
        if !eligible {
            self.young.insert((born, id));
        }
    }

    /// Whether a member is younger than it was: it has started again.
    pub(super) fn has_restarted(&self, member: &Member) -> bool {
        let known = self.ages.get(&member.id);
        known.is_some_and(|known| member.born > known.born)
    }

    /// Removes a member. Returns whether it was eligible.
    pub(super) fn remove(&mut self, id: &NodeId) -> bool {
        let Some(age) = self.ages.remove(id) else {
            return false;
        };
        self.by_age.remove(&(age.born, *id));
        self.young.remove(&(age.born, *id));
        age.eligible
    }

    pub(super) fn len(&self) -> usize {
        self.ages.len()
    }

    pub(super) fn contains(&self, id: &NodeId) -> bool {
        self.ages.contains_key(id)
    }

    /// Marks the next member that has become eligible, oldest first, and returns it.
    pub(super) fn next(&mut self, now: Time) -> Option<NodeId> {
        self.next_at().filter(|at| *at <= now)?;
        let (_, id) = self.young.pop_first()?;
        if let Some(age) = self.ages.get_mut(&id) {
            age.eligible = true;
        }
        Some(id)
    }

    /// When the next member becomes eligible.
    pub(super) fn next_at(&self) -> Option<Time> {
        let (oldest, _) = self.by_age.first()?;
        let (born, _) = self.young.first()?;
        let (step, eligibility) = (millis(ROUND), millis(ELIGIBLE_AFTER));
        let due = born.millis_after(*oldest).saturating_add(eligibility);
        let round = due
            .saturating_sub(step / 2)
            .div_ceil(step)
            .saturating_mul(step)
            + step / 2;
        Some(oldest.plus_millis(round))
    }

    pub(super) fn eligible(&self) -> impl Iterator<Item = NodeId> {
        self.ages
            .iter()
            .filter(|(_, age)| age.eligible)
            .map(|(id, _)| *id)
    }

    pub(super) fn eligible_len(&self) -> usize {
        self.ages.len() - self.young.len()
    }

    /// Returns members to fill up with if fewer than `wanted` are eligible, each with its round.
    ///
    /// Takes whole rounds, oldest first, until there are enough: the age of members that started together cannot be
    /// told apart.
    pub(super) fn fill(&self, wanted: usize) -> Vec<(u64, NodeId)> {
        let mut fill: Vec<(u64, NodeId)> = Vec::new();
        let Some((oldest, _)) = self.by_age.first() else {
            return fill;
        };
        let missing = wanted.saturating_sub(self.eligible_len());
        for (born, id) in &self.young {
            let round = round(born.millis_after(*oldest));
            if fill.len() >= missing && fill.last().is_none_or(|(last, _)| *last != round) {
                break;
            }
            fill.push((round, *id));
        }
        fill
    }
}

/// The number of the first round at or after this age difference to the oldest member, in milliseconds.
fn round(millis_after: u64) -> u64 {
    let step = millis(ROUND);
    millis_after.saturating_sub(step / 2).div_ceil(step)
}
