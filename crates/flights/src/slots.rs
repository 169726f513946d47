//! Determines which node owns which keys: keys fall into slots, and each slot has three owners among the members.
//!
//! If ten thousand nodes requested a new image at the same moment, one arbiter would get ten thousand requests on as
//! many connections. So a large cluster has shards, and each slot has owners for each shard, and global owners, which
//! the arbiters of the shards ask. With eight shards each arbiter gets about a thousand requests, and the global
//! arbiter eight.

mod eligibility;
mod owners;
mod ranking;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;

pub use eligibility::{ELIGIBLE_AFTER, ROUND};
pub use owners::{Owners, Scope, Slot, SlotChange};

use crate::members::Change;
use crate::{NodeId, Time};
use eligibility::Eligibility;
use ranking::{Ranking, score};

/// The number of slots. A node keeps in touch with owners only: three of each slot.
pub const SLOTS: usize = 64;
/// The approximate minimal size of a shard. A cluster of less than twice this is one shard.
const MIN_SHARD_SIZE: usize = 1_024;
/// The number of owners of a slot.
pub const OWNERS: usize = 3;

/// The state of one slot, for one scope.
#[derive(Clone, Debug)]
struct State {
    scope: Scope,
    slot: Slot,
    ranking: Ranking,
    owners: Owners,
    is_stale: bool,
    reported: Owners,
    previous: Option<NodeId>,
}

impl State {
    fn new(scope: Scope, slot: Slot) -> Self {
        Self {
            scope,
            slot,
            ranking: Ranking::default(),
            owners: Owners::NONE,
            is_stale: true,
            reported: Owners::NONE,
            previous: None,
        }
    }

    fn score(&self, hash: u64) -> u64 {
        score(self.scope, self.slot, hash)
    }

    /// Ranks all eligible members again.
    fn rank(&mut self, eligibility: &Eligibility) {
        let (scope, slot) = (self.scope, self.slot);
        let scored = |id: NodeId| (score(scope, slot, id.hash()), id);
        self.ranking.rebuild(eligibility.eligible().map(scored));
    }
}

/// The owners of all slots, derived from the members that one node knows.
///
/// They are the three eligible members that rendezvous hashing ranks highest for the scope and the slot. If fewer than
/// three are eligible, the oldest other members fill up, and members that started together are ranked in the same way.
/// So a cluster of one node, or of new nodes, works at once, and nothing moves when these become eligible.
#[derive(Clone, Debug)]
pub struct Slots {
    /// The approximate minimal size of a shard.
    shard_size: usize,
    /// A power of two.
    shards: u64,
    eligibility: Eligibility,
    /// The slots of each scope.
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
        let state = |slot| State::new(Scope::Shard(0), slot);
        Self {
            shard_size: MIN_SHARD_SIZE,
            shards: 1,
            eligibility: Eligibility::default(),
            states: Slot::all().map(state).collect(),
            fill: Vec::new(),
        }
    }

    /// Sets the approximate minimal size of shards. It must be the same on all nodes of a cluster.
    pub fn with_shards_of(self, shard_size: usize) -> Self {
        Self { shard_size, ..self }
    }

    /// Applies changes of the membership at the time `now`. Pass all changes of one moment in one call.
    pub fn update<'a>(&mut self, now: Time, changes: impl IntoIterator<Item = &'a Change>) {
        for change in changes {
            match change {
                Change::Joined(member) | Change::Updated(member) => {
                    // It knows nothing of its slots any more, and does not count itself as their owner.
                    if self.eligibility.has_restarted(member) {
                        self.remove(&member.id);
                    }
                    self.eligibility.set(member.id, member.born);
                }
                Change::Left(id) => self.remove(id),
            }
        }
        while let Some(id) = self.eligibility.next(now) {
            self.enter(id);
        }
        let shards = shards_of(self.eligibility.len(), self.shard_size);
        if shards != self.shards {
            self.divide(shards);
        }
        let fill = self.eligibility.fill(OWNERS);
        if fill != self.fill {
            self.fill = fill;
            self.states.iter_mut().for_each(|s| s.is_stale = true);
        }
        self.recompute_owners();
    }

    /// Divides the cluster into this many shards. All slots count as changed: most nodes are in another shard than
    /// before.
    fn divide(&mut self, shards: u64) {
        let before = std::mem::take(&mut self.states);
        self.shards = shards;
        for scope in self.scopes() {
            for slot in Slot::all() {
                let known = before.iter().find(|s| (s.scope, s.slot) == (scope, slot));
                let mut state = match known {
                    Some(state) => state.clone(),
                    None => State::new(scope, slot),
                };
                if known.is_none() {
                    state.rank(&self.eligibility);
                }
                state.reported = Owners::NONE;
                self.states.push(state);
            }
        }
    }

    /// The shards, and the whole cluster if there are several.
    pub fn scopes(&self) -> impl Iterator<Item = Scope> + use<> {
        let cluster = (self.shards > 1).then_some(Scope::Cluster);
        (0..self.shards).map(Scope::Shard).chain(cluster)
    }

    /// The number of shards: a power of two.
    pub fn shard_count(&self) -> u64 {
        self.shards
    }

    /// When [`Slots::update`] must be called next, even without changes.
    pub fn next_deadline(&self) -> Option<Time> {
        self.eligibility.next_at()
    }

    fn state(&self, scope: Scope, slot: Slot) -> Option<&State> {
        let scope = match scope {
            Scope::Shard(shard) => shard,
            Scope::Cluster => self.shards,
        };
        let scope = usize::try_from(scope).ok()?;
        self.states.get(scope * SLOTS + slot.index())
    }

    /// The owners of a slot, the arbiter first. None where there is no such scope.
    pub fn owners(&self, scope: Scope, slot: Slot) -> Owners {
        let state = self.state(scope, slot);
        state.map_or(Owners::NONE, |state| state.owners)
    }

    /// The previous arbiter, in a cluster of one shard, if this node has seen one and it is still a member. A new arbiter
    /// asks it what it has granted.
    pub fn previous_arbiter(&self, slot: Slot) -> Option<NodeId> {
        let state = self.state(Scope::Shard(0), slot);
        let previous = state.filter(|_| self.shards == 1)?.previous?;
        self.eligibility.contains(&previous).then_some(previous)
    }

    /// The slots whose owners have changed since the last call.
    pub fn take_changes(&mut self) -> Vec<SlotChange> {
        let changed = self.states.iter_mut().filter(|s| s.reported != s.owners);
        let change = |state: &mut State| SlotChange {
            scope: state.scope,
            slot: state.slot,
            before: std::mem::replace(&mut state.reported, state.owners),
            after: state.owners,
        };
        changed.map(change).collect()
    }

    /// Adds an eligible member.
    fn enter(&mut self, id: NodeId) {
        let hash = id.hash();
        let others = self.eligibility.eligible_len() - 1;
        for state in &mut self.states {
            let rank = state.ranking.add(state.score(hash), id, others);
            state.is_stale |= rank.is_some_and(|rank| rank < OWNERS);
        }
    }

    /// Removes a member.
    fn remove(&mut self, id: &NodeId) {
        if !self.eligibility.remove(id) {
            return;
        }
        let left = self.eligibility.eligible_len();
        for state in &mut self.states {
            let rank = state.ranking.remove(id);
            state.is_stale |= rank.is_some_and(|rank| rank < OWNERS);
            if state.ranking.len() < OWNERS.min(left) {
                state.rank(&self.eligibility);
            }
        }
    }

    fn recompute_owners(&mut self) {
        let fill = self.fill.iter();
        let fill: Vec<_> = fill.map(|(round, id)| (*round, id.hash(), *id)).collect();
        for state in self.states.iter_mut().filter(|state| state.is_stale) {
            state.is_stale = false;
            let scored = |(round, hash, id): &(u64, u64, NodeId)| {
                (*round, Reverse((state.score(*hash), *id)))
            };
            let mut fill: Vec<_> = fill.iter().map(scored).collect();
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

/// The number of shards of a cluster, a power of two.
fn shards_of(members: usize, shard_size: usize) -> u64 {
    let whole = members.checked_div(shard_size).unwrap_or_default();
    whole.checked_ilog2().map_or(1, |log| 1 << log)
}
