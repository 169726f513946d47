//! Rendezvous hashing: each slot ranks the members by a hash of both.
//!
//! Source: Thaler and Ravishankar, A Name-Based Mapping Scheme for Rendezvous, 1996. A member that joins or leaves
//! moves only the slots in which it ranks among the first.

use super::{SLOTS, Scope, Slot};
use crate::NodeId;
use crate::random::{GOLDEN, mix};

/// The number of ranks kept for a slot: three owners, and spares, so that all members are ranked again only after many
/// of them have left.
const KEPT: usize = 8;

/// The score of a member for a slot; the highest is the first owner. It must be the same on every platform and in every
/// version of Peili.
pub(super) fn score(scope: Scope, slot: Slot, hash: u64) -> u64 {
    let scope = match scope {
        Scope::Shard(shard) => shard,
        Scope::Cluster => u64::from(u32::MAX),
    };
    let step = scope * SLOTS as u64 + u64::from(slot.0) + 1;
    mix(hash.wrapping_add(GOLDEN.wrapping_mul(step)))
}

/// The highest-ranked members of one slot, best first. The list is exact: no other member ranks between them.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranking(Vec<(u64, NodeId)>);

impl Ranking {
    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().map(|(_, id)| *id)
    }

    /// Adds a candidate to `others` existing ones. Returns its rank if it is kept.
    pub(super) fn add(&mut self, score: u64, id: NodeId, others: usize) -> Option<usize> {
        let rank = self.0.partition_point(|better| *better > (score, id));
        // Behind the last rank kept there may be others that only a full ranking would find.
        let is_exact = rank < self.0.len() || self.0.len() == others;
        if !is_exact || rank >= KEPT {
            return None;
        }
        self.0.insert(rank, (score, id));
        self.0.truncate(KEPT);
        Some(rank)
    }

    /// Removes a candidate. Returns its rank if it was kept.
    pub(super) fn remove(&mut self, id: &NodeId) -> Option<usize> {
        let rank = self.0.iter().position(|(_, kept)| kept == id)?;
        self.0.remove(rank);
        Some(rank)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Ranks all candidates again.
    pub(super) fn rebuild(&mut self, candidates: impl Iterator<Item = (u64, NodeId)>) {
        self.0.clear();
        for (score, id) in candidates {
            // No candidate so far is better than those kept.
            self.add(score, id, self.0.len());
        }
    }
}
