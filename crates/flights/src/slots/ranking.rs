//! Rendezvous hashing: each slot ranks the members by a hash of both.
//!
//! Source: Thaler and Ravishankar, A Name-Based Mapping Scheme for Rendezvous, 1996. A member that comes or goes
//! moves only the slots that it is among the first of.

use super::Slot;
use crate::NodeId;
use crate::random::{GOLDEN, mix};

/// The best of a slot that are kept: three owners, and so many more that a slot must lose before all members have to
/// be ranked again.
const KEPT: usize = 8;

/// What a member is worth to a slot; the highest is its first owner. The same on every platform and in every version
/// of Peili, or else nodes of different versions would not agree.
pub(super) fn score(slot: Slot, hash: u64) -> u64 {
    mix(hash.wrapping_add(GOLDEN.wrapping_mul(u64::from(slot.0) + 1)))
}

/// The best members of one slot, best first: exactly the first of all candidates, or all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranking(Vec<(u64, NodeId)>);

impl Ranking {
    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().map(|(_, id)| *id)
    }

    /// Enters a candidate where there were `others` before. Returns its rank, if it is kept.
    pub(super) fn add(&mut self, score: u64, id: NodeId, others: usize) -> Option<usize> {
        let rank = self.0.partition_point(|better| *better > (score, id));
        // Behind the last that is kept there may be others whom only a full ranking would show.
        let is_exact = rank < self.0.len() || self.0.len() == others;
        if !is_exact || rank >= KEPT {
            return None;
        }
        self.0.insert(rank, (score, id));
        self.0.truncate(KEPT);
        Some(rank)
    }

    /// Takes a candidate out. Returns the rank it had, if it was kept.
    pub(super) fn remove(&mut self, id: &NodeId) -> Option<usize> {
        let rank = self.0.iter().position(|(_, kept)| kept == id)?;
        self.0.remove(rank);
        Some(rank)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Ranks all candidates anew.
    pub(super) fn rebuild(&mut self, candidates: impl Iterator<Item = (u64, NodeId)>) {
        self.0.clear();
        for (score, id) in candidates {
            // Nothing has been passed over yet that is better than what is kept.
            self.add(score, id, self.0.len());
        }
    }
}
