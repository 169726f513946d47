//! The slots, and the owners of each.

use std::fmt;

use super::{OWNERS, SLOTS};
use crate::NodeId;

/// A part of the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(super) u8);

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

/// The nodes for which an owner keeps keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The nodes of a shard, by its number.
    Shard(u64),
    /// All nodes, through the arbiters of their shards. Owners for this scope exist only if there are several shards.
    Cluster,
}

impl Scope {
    /// The shard of a node. `shards`: their number, a power of two. Members are assigned by their ids, about evenly.
    pub fn of(node: &NodeId, shards: u64) -> Self {
        Self::Shard(node.hash() & (shards - 1))
    }

    /// The shard at this distance after this one, in the circle of all shards.
    pub(crate) fn next(self, distance: u64, shards: u64) -> Self {
        match self {
            Self::Shard(shard) => Self::Shard(shard.wrapping_add(distance) & (shards - 1)),
            Self::Cluster => Self::Cluster,
        }
    }
}

/// The owners of a slot, the arbiter first. Fewer than three only if there are fewer members.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Owners {
    ids: [NodeId; OWNERS],
    len: usize,
}

impl Owners {
    pub(super) const NONE: Self = Self {
        ids: [NodeId([0; 32]); OWNERS],
        len: 0,
    };

    /// The owner that grants leads.
    pub fn arbiter(&self) -> Option<NodeId> {
        self.first().copied()
    }

    /// The owners for which `is` holds.
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
    /// The nodes for which the owners keep keys.
    pub scope: Scope,
    /// The slot.
    pub slot: Slot,
    /// Its owners at the last call.
    pub before: Owners,
    /// Its owners now.
    pub after: Owners,
}
