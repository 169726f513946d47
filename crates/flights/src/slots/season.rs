//! Which members count as owners: those who have been in the cluster long enough.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::time::millis;
use crate::{Born, NodeId, Time};

/// A member this young is not seasoned yet.
pub const SEASON: Duration = Duration::from_secs(10);
/// Members become seasoned together, at moments this far apart.
pub const STEP: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
struct Age {
    born: Born,
    seasoned: bool,
}

/// Everybody's age, and who is seasoned.
///
/// A member is seasoned when it has been there for [`SEASON`], at the next beat of a clock that all nodes share
/// within what a message takes: the age of the oldest member. Beats are [`STEP`] apart, half a step off its birth, so
/// that members who started with it do not fall on a beat. So those who joined in a crowd become owners in the same
/// moment in everybody's view, not one by one in an order that each view sees a little differently.
#[derive(Clone, Debug, Default)]
pub(super) struct Seasons {
    ages: BTreeMap<NodeId, Age>,
    by_age: BTreeSet<(Born, NodeId)>,
    /// Those of `by_age` who are not seasoned.
    young: BTreeSet<(Born, NodeId)>,
}

impl Seasons {
    /// Enters a member, or another age of it.
    pub(super) fn set(&mut self, id: NodeId, born: Born) {
        let seasoned = match self.ages.get(&id) {
            Some(age) => {
                self.by_age.remove(&(age.born, id));
                self.young.remove(&(age.born, id));
                age.seasoned
            }
            None => false,
        };
        self.ages.insert(id, Age { born, seasoned });
        self.by_age.insert((born, id));
        if !seasoned {
            self.young.insert((born, id));
        }
    }

    /// Takes a member out. Says whether it was seasoned.
    pub(super) fn remove(&mut self, id: &NodeId) -> bool {
        let Some(age) = self.ages.remove(id) else {
            return false;
        };
        self.by_age.remove(&(age.born, *id));
        self.young.remove(&(age.born, *id));
        age.seasoned
    }

    pub(super) fn len(&self) -> usize {
        self.ages.len()
    }

    pub(super) fn ages(&self) -> impl Iterator<Item = (NodeId, Born)> {
        self.ages.iter().map(|(id, age)| (*id, age.born))
    }

    pub(super) fn contains(&self, id: &NodeId) -> bool {
        self.ages.contains_key(id)
    }

    /// The next one who is seasoned by now and was not; oldest first.
    pub(super) fn next(&mut self, now: Time) -> Option<NodeId> {
        self.next_at().filter(|at| *at <= now)?;
        let (_, id) = self.young.pop_first()?;
        if let Some(age) = self.ages.get_mut(&id) {
            age.seasoned = true;
        }
        Some(id)
    }

    /// When the next one will be seasoned.
    pub(super) fn next_at(&self) -> Option<Time> {
        let (oldest, _) = self.by_age.first()?;
        let (born, _) = self.young.first()?;
        let (step, season) = (millis(STEP), millis(SEASON));
        let due = born.millis_after(*oldest).saturating_add(season);
        let beat = due
            .saturating_sub(step / 2)
            .div_ceil(step)
            .saturating_mul(step)
            + step / 2;
        Some(oldest.plus_millis(beat))
    }

    pub(super) fn seasoned(&self) -> impl Iterator<Item = NodeId> {
        self.ages
            .iter()
            .filter(|(_, age)| age.seasoned)
            .map(|(id, _)| *id)
    }

    pub(super) fn seasoned_len(&self) -> usize {
        self.ages.len() - self.young.len()
    }

    /// Those who fill up where fewer than `wanted` are seasoned, each with the beat that it belongs to: whole beats,
    /// the oldest first, until there are enough. Whoever started together belongs together, because messages cannot
    /// tell who of them is older.
    pub(super) fn fill(&self, wanted: usize) -> Vec<(u64, NodeId)> {
        let mut fill: Vec<(u64, NodeId)> = Vec::new();
        let Some((oldest, _)) = self.by_age.first() else {
            return fill;
        };
        let missing = wanted.saturating_sub(self.seasoned_len());
        for (born, id) in &self.young {
            let beat = beat(born.millis_after(*oldest));
            if fill.len() >= missing && fill.last().is_none_or(|(last, _)| *last != beat) {
                break;
            }
            fill.push((beat, *id));
        }
        fill
    }
}

/// The number of the first beat that comes so many milliseconds after the birth of the oldest, or later.
fn beat(millis_after: u64) -> u64 {
    let step = millis(STEP);
    millis_after.saturating_sub(step / 2).div_ceil(step)
}
