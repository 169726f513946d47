//! Which node owns which keys: keys fall into slots, and each slot has three owners among the members.

mod eligibility;
mod ranking;
mod shard_map;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::fmt;

pub use eligibility::{ELIGIBLE_AFTER, ROUND};
pub use shard_map::ShardMap;

use crate::members::Change;
use crate::{NodeId, Time};
use eligibility::Eligibility;
use ranking::{Ranking, score};

/// The number of slots. A node keeps in touch with owners only: three of each slot.
pub const SLOTS: usize = 64;
/// The number of owners of a slot.
pub const OWNERS: usize = 3;

/// A part of the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// The slot of a key: the first six bits.
    pub fn of(key: &[u8; 16]) -> Self {
        const { assert!(SLOTS == 64) };
        Self(key[0] >> 2)
    }

    /// All slots, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS as u8).map(Self)
    }

    /// Its number, below [`SLOTS`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The owners of a slot, the arbiter first. Fewer than three only if there are fewer members.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Owners {
    ids: [NodeId; OWNERS],
    len: usize,
}

impl Owners {
    const NONE: Self = Self {
        ids: [NodeId([0; 32]); OWNERS],
        len: 0,
    };

    /// The owner that grants leads.
    pub fn arbiter(&self) -> Option<NodeId> {
        self.first().copied()
    }

    /// Those of them of whom this holds.
    #[must_use]
    pub fn filter_by(&self, is: impl Fn(&NodeId) -> bool) -> Self {
        self.iter().filter(|owner| is(owner)).copied().collect()
    }
}

impl FromIterator<NodeId> for Owners {
    /// Takes the first three.
    fn from_iter<I: IntoIterator<Item = NodeId>>(ids: I) -> Self {
        let mut owners = Self::NONE;
        for (entry, id) in owners.ids.iter_mut().zip(ids) {
            *entry = id;
            owners.len += 1;
        }
        owners
    }
}

impl std::ops::Deref for Owners {
    type Target = [NodeId];

    fn deref(&self) -> &[NodeId] {
        self.ids.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A slot whose owners have changed since the last call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotChange {
    /// The slot.
    pub slot: Slot,
    /// Its owners at the last call.
    pub before: Owners,
    /// Its owners now.
    pub after: Owners,
}

/// The state of one slot.
#[derive(Clone, Debug)]
struct State {
    ranking: Ranking,
    owners: Owners,
    reported: Owners,
    previous: Option<NodeId>,
}

/// The owners of all slots, derived from the members that one node knows.
///
/// They are the three eligible members that rendezvous hashing ranks highest for the slot. If fewer than three are
/// eligible, the oldest other members fill up, and members that started together are ranked in the same way. So a
/// cluster of one node, or of new nodes, works at once, and nothing moves when these become eligible.
#[derive(Clone, Debug)]
pub struct Slots {
    eligibility: Eligibility,
    states: Vec<State>,
    /// The members that fill up, each with its round.
    fill: Vec<(u64, NodeId)>,
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

impl Slots {
    /// The slots of a cluster without members.
    pub fn new() -> Self {
        let (owners, reported) = (Owners::NONE, Owners::NONE);
        let state = State {
            ranking: Ranking::default(),
            owners,
            reported,
            previous: None,
        };
        Self {
            eligibility: Eligibility::default(),
            states: vec![state; SLOTS],
            fill: Vec::new(),
        }
    }

    /// Applies changes of the membership at the time `now`. Pass all changes of one moment in one call.
    pub fn update<'a>(&mut self, now: Time, changes: impl IntoIterator<Item = &'a Change>) {
        let mut dirty = 0_u64;
        for change in changes {
            match change {
                Change::Joined(member) | Change::Updated(member) => {
                    self.eligibility.set(member.id, member.born);
                }
                Change::Left(id) => dirty |= self.remove(id),
            }
        }
        while let Some(id) = self.eligibility.next(now) {
            dirty |= self.enter(id);
        }
        let fill = self.eligibility.fill(OWNERS);
        if fill != self.fill {
            self.fill = fill;
            dirty = u64::MAX;
        }
        self.recompute_owners(dirty);
    }

    /// The number of members.
    pub fn members(&self) -> usize {
        self.eligibility.len()
    }

    /// The slots of a subset of the members.
    fn shard_part(&self, now: Time, is_in: impl Fn(&NodeId) -> bool) -> Self {
        let mut shard_part = Self::new();
        for (id, born) in self.eligibility.ages().filter(|(id, _)| is_in(id)) {
            shard_part.eligibility.set(id, born);
        }
        shard_part.update(now, []);
        shard_part
    }

    /// Makes the next [`Self::take_changes`] return all slots.
    fn report_all_again(&mut self) {
        self.states
            .iter_mut()
            .for_each(|s| s.reported = Owners::NONE);
    }

    /// Continues from other slots: changes are reported relative to theirs.
    fn continue_from(&mut self, before: &Self) {
        for (state, before) in self.states.iter_mut().zip(&before.states) {
            state.reported = before.reported;
            if state.owners.arbiter() != before.owners.arbiter() {
                state.previous = before.owners.arbiter();
            }
        }
    }

    /// When [`Slots::update`] must be called next, even without changes.
    pub fn next_deadline(&self) -> Option<Time> {
        self.eligibility.next_at()
    }

    /// The owners of a slot, the arbiter first.
    pub fn owners(&self, slot: Slot) -> Owners {
        self.states
            .get(slot.index())
            .map_or(Owners::NONE, |state| state.owners)
    }

    /// The previous arbiter, if this node has seen one and it is still a member. A new arbiter asks it what it has
    /// granted.
    pub fn previous_arbiter(&self, slot: Slot) -> Option<NodeId> {
        let previous = self.states.get(slot.index())?.previous?;
        self.eligibility.contains(&previous).then_some(previous)
    }

    /// The slots whose owners have changed since the last call.
    pub fn take_changes(&mut self) -> Vec<SlotChange> {
        let states = Slot::all().zip(&mut self.states);
        let changed = states.filter(|(_, state)| state.reported != state.owners);
        changed
            .map(|(slot, state)| {
                let before = std::mem::replace(&mut state.reported, state.owners);
                SlotChange {
                    slot,
                    before,
                    after: state.owners,
                }
            })
            .collect()
    }

    /// Adds an eligible member. Returns the slots that it now owns, one bit each.
    fn enter(&mut self, id: NodeId) -> u64 {
        let hash = id.hash();
        let others = self.eligibility.eligible_len() - 1;
        let mut dirty = 0;
        for (slot, state) in Slot::all().zip(&mut self.states) {
            let rank = state.ranking.add(score(slot, hash), id, others);
            dirty |= u64::from(rank.is_some_and(|rank| rank < OWNERS)) << slot.0;
        }
        dirty
    }

    /// Removes a member. Returns the slots that it owned, one bit each.
    fn remove(&mut self, id: &NodeId) -> u64 {
        if !self.eligibility.remove(id) {
            return 0;
        }
        let left = self.eligibility.eligible_len();
        let mut dirty = 0;
        for (slot, state) in Slot::all().zip(&mut self.states) {
            let rank = state.ranking.remove(id);
            dirty |= u64::from(rank.is_some_and(|rank| rank < OWNERS)) << slot.0;
            if state.ranking.len() < OWNERS.min(left) {
                let scored = |id: NodeId| (score(slot, id.hash()), id);
                state
                    .ranking
                    .rebuild(self.eligibility.eligible().map(scored));
            }
        }
        dirty
    }

    /// Recomputes the owners of the slots in `dirty`, one bit each.
    fn recompute_owners(&mut self, dirty: u64) {
        let fill: Vec<_> = self
            .fill
            .iter()
            .map(|(round, id)| (*round, id.hash(), *id))
            .collect();
        for (slot, state) in Slot::all().zip(&mut self.states) {
            if dirty >> slot.0 & 1 == 0 {
                continue;
            }
            let mut fill: Vec<_> = fill
                .iter()
                .map(|(round, hash, id)| (*round, Reverse((score(slot, *hash), *id))))
                .collect();
            if fill.len() > OWNERS {
                fill.select_nth_unstable(OWNERS - 1);
                fill.truncate(OWNERS);
            }
            fill.sort_unstable();
            let fill = fill.into_iter().map(|(_, Reverse((_, id)))| id);
            let owners: Owners = state.ranking.ids().chain(fill).collect();
            if owners.arbiter() != state.owners.arbiter() {
                state.previous = state.owners.arbiter();
            }
            state.owners = owners;
        }
    }
}
