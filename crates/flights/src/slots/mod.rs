//! Who owns what: keys fall into slots, and each slot has three owners among the members.

mod ranking;
mod realm;
mod season;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::fmt;

pub use realm::Realm;
pub use season::{SEASON, STEP};

use crate::members::Change;
use crate::{NodeId, Time};
use ranking::{Ranking, score};
use season::Seasons;

/// Parts of the key space. A node keeps in touch with owners alone: three of each slot.
pub const SLOTS: usize = 64;
/// Owners of a slot.
pub const OWNERS: usize = 3;

/// A part of the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// The slot of a key, by the first six bits of its hash.
    pub fn of(key: &[u8; 16]) -> Self {
        const { assert!(SLOTS == 64) };
        Self(key[0] >> 2)
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS as u8).map(Self)
    }

    /// Its number, below [`SLOTS`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The owners of a slot, the arbiter first; fewer than three only where there are fewer members.
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

    /// The one who grants leads.
    pub fn arbiter(&self) -> Option<NodeId> {
        self.first().copied()
    }

    /// Those of them of whom this holds.
    #[must_use]
    pub fn who(&self, is: impl Fn(&NodeId) -> bool) -> Self {
        self.iter().filter(|owner| is(owner)).copied().collect()
    }
}

impl FromIterator<NodeId> for Owners {
    /// The first three.
    fn from_iter<I: IntoIterator<Item = NodeId>>(ids: I) -> Self {
        let mut owners = Self::NONE;
        for (place, id) in owners.ids.iter_mut().zip(ids) {
            *place = id;
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

/// A slot that has other owners than when it was last asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotChange {
    pub slot: Slot,
    pub before: Owners,
    pub after: Owners,
}

/// What belongs to one slot.
#[derive(Clone, Debug)]
struct State {
    ranking: Ranking,
    owners: Owners,
    told: Owners,
    previous: Option<NodeId>,
}

/// The owners of all slots, as they follow from the members that one node knows.
///
/// They are the three seasoned members whom rendezvous hashing ranks highest for the slot. Where fewer than three
/// are seasoned, the oldest of the others fill up behind them, and those who started together are ranked in the same
/// way: a cluster of one, or of fresh nodes, works at once, and nothing moves when these become seasoned.
#[derive(Clone, Debug)]
pub struct Slots {
    seasons: Seasons,
    states: Vec<State>,
    /// The members who fill up, and the beat that each belongs to.
    fill: Vec<(u64, NodeId)>,
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

impl Slots {
    /// Of a cluster without members.
    pub fn new() -> Self {
        let (owners, told) = (Owners::NONE, Owners::NONE);
        let state = State {
            ranking: Ranking::default(),
            owners,
            told,
            previous: None,
        };
        Self {
            seasons: Seasons::default(),
            states: vec![state; SLOTS],
            fill: Vec::new(),
        }
    }

    /// Takes in what changed about the members, and that it is `now`. All changes of one moment belong into one call.
    pub fn update<'a>(&mut self, now: Time, changes: impl IntoIterator<Item = &'a Change>) {
        let mut dirty = 0_u64;
        for change in changes {
            match change {
                Change::Joined(member) | Change::Updated(member) => {
                    self.seasons.set(member.id, member.born);
                }
                Change::Left(id) => dirty |= self.remove(id),
            }
        }
        while let Some(id) = self.seasons.next(now) {
            dirty |= self.enter(id);
        }
        let fill = self.seasons.fill(OWNERS);
        if fill != self.fill {
            self.fill = fill;
            dirty = u64::MAX;
        }
        self.settle(dirty);
    }

    /// So many are members.
    pub fn members(&self) -> usize {
        self.seasons.len()
    }

    /// The slots of a part of the members alone.
    fn part(&self, now: Time, is_in: impl Fn(&NodeId) -> bool) -> Self {
        let mut part = Self::new();
        for (id, born) in self.seasons.ages().filter(|(id, _)| is_in(id)) {
            part.seasons.set(id, born);
        }
        part.update(now, []);
        part
    }

    /// Tells all anew at the next call of [`Self::take_changes`].
    fn forget_told(&mut self) {
        self.states.iter_mut().for_each(|s| s.told = Owners::NONE);
    }

    /// Takes the place of others: what has changed is what these own differently.
    fn follows(&mut self, before: &Self) {
        for (state, before) in self.states.iter_mut().zip(&before.states) {
            state.told = before.told;
            if state.owners.arbiter() != before.owners.arbiter() {
                state.previous = before.owners.arbiter();
            }
        }
    }

    /// When [`Slots::update`] is to be called next, even if nothing changes until then.
    pub fn next_deadline(&self) -> Option<Time> {
        self.seasons.next_at()
    }

    /// The owners of a slot, the arbiter first.
    pub fn owners(&self, slot: Slot) -> Owners {
        self.states
            .get(slot.index())
            .map_or(Owners::NONE, |state| state.owners)
    }

    /// The arbiter before the present one, if this node has seen one and it is still a member: an arbiter new to a
    /// slot asks it what it has granted.
    pub fn previous_arbiter(&self, slot: Slot) -> Option<NodeId> {
        let previous = self.states.get(slot.index())?.previous?;
        self.seasons.contains(&previous).then_some(previous)
    }

    /// The slots whose owners are others than at the last call.
    pub fn take_changes(&mut self) -> Vec<SlotChange> {
        let states = Slot::all().zip(&mut self.states);
        let changed = states.filter(|(_, state)| state.told != state.owners);
        changed
            .map(|(slot, state)| {
                let before = std::mem::replace(&mut state.told, state.owners);
                SlotChange {
                    slot,
                    before,
                    after: state.owners,
                }
            })
            .collect()
    }

    /// Enters a seasoned member. Returns the slots that it owns now, a bit each.
    fn enter(&mut self, id: NodeId) -> u64 {
        let hash = id.hash();
        let others = self.seasons.seasoned_len() - 1;
        let mut dirty = 0;
        for (slot, state) in Slot::all().zip(&mut self.states) {
            let rank = state.ranking.add(score(slot, hash), id, others);
            dirty |= u64::from(rank.is_some_and(|rank| rank < OWNERS)) << slot.0;
        }
        dirty
    }

    /// Takes a member out. Returns the slots that it owned, a bit each.
    fn remove(&mut self, id: &NodeId) -> u64 {
        if !self.seasons.remove(id) {
            return 0;
        }
        let left = self.seasons.seasoned_len();
        let mut dirty = 0;
        for (slot, state) in Slot::all().zip(&mut self.states) {
            let rank = state.ranking.remove(id);
            dirty |= u64::from(rank.is_some_and(|rank| rank < OWNERS)) << slot.0;
            if state.ranking.len() < OWNERS.min(left) {
                let scored = |id: NodeId| (score(slot, id.hash()), id);
                state.ranking.rebuild(self.seasons.seasoned().map(scored));
            }
        }
        dirty
    }

    /// Works out the owners of the slots in `dirty`, a bit each.
    fn settle(&mut self, dirty: u64) {
        let fill: Vec<_> = self
            .fill
            .iter()
            .map(|(beat, id)| (*beat, id.hash(), *id))
            .collect();
        for (slot, state) in Slot::all().zip(&mut self.states) {
            if dirty >> slot.0 & 1 == 0 {
                continue;
            }
            let mut fill: Vec<_> = fill
                .iter()
                .map(|(beat, hash, id)| (*beat, Reverse((score(slot, *hash), *id))))
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
