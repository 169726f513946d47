//! Shards the members of a large cluster: each shard has owners of its own, and they ask the global owners.
//!
//! If ten thousand nodes request a new image at the same moment, one arbiter would get ten thousand requests on as many
//! connections. With eight shards each arbiter gets about a thousand, and the global arbiter eight.

use super::{Owners, Slot, SlotChange, Slots};
use crate::members::Change;
use crate::{NodeId, Time};

/// The approximate minimal size of a shard. A cluster of less than twice this is one shard.
const MIN_SHARD_SIZE: usize = 1_024;

/// The owners of all slots, in this node's shard and in the cluster.
#[derive(Debug)]
pub struct ShardMap {
    me: NodeId,
    /// The approximate minimal size of a shard.
    size: usize,
    /// A power of two.
    shards: u64,
    cluster: Slots,
    /// The owners in this node's shard, if there are several shards.
    shard: Option<Slots>,
}

impl ShardMap {
    /// The map of a cluster without members.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            size: MIN_SHARD_SIZE,
            shards: 1,
            cluster: Slots::new(),
            shard: None,
        }
    }

    /// Sets the approximate minimal size of shards. It must be the same on all nodes of a cluster.
    pub fn with_shards_of(self, size: usize) -> Self {
        Self { size, ..self }
    }

    /// The number of shards of a cluster, a power of two. Members are assigned by their ids, about evenly.
    fn shard_count_for(&self, members: usize) -> u64 {
        let whole = members.checked_div(self.size).unwrap_or_default();
        whole.checked_ilog2().map_or(1, |log| 1 << log)
    }

    /// See [`Slots::update`].
    pub fn update(&mut self, now: Time, changes: &[Change]) {
        self.cluster.update(now, changes);
        let shards = self.shard_count_for(self.cluster.members());
        if shards != self.shards {
            self.divide(now, shards);
        } else if let Some(shard) = &mut self.shard {
            let shard_part = Shard::of(&self.me, shards);
            let is_in_my_shard = |change: &&Change| match change {
                Change::Joined(member) | Change::Updated(member) => shard_part.contains(&member.id),
                Change::Left(id) => shard_part.contains(id),
            };
            shard.update(now, changes.iter().filter(is_in_my_shard));
        }
    }

    fn divide(&mut self, now: Time, shards: u64) {
        let before = self.local().clone();
        self.shards = shards;
        let shard_part = Shard::of(&self.me, shards);
        if self.shard.is_none() {
            self.cluster.report_all_again();
        }
        self.shard =
            (shards > 1).then(|| self.cluster.shard_part(now, |id| shard_part.contains(id)));
        self.shard
            .as_mut()
            .unwrap_or(&mut self.cluster)
            .continue_from(&before);
    }

    fn local(&self) -> &Slots {
        self.shard.as_ref().unwrap_or(&self.cluster)
    }

    /// See [`Slots::next_deadline`].
    pub fn next_deadline(&self) -> Option<Time> {
        let both = [Some(&self.cluster), self.shard.as_ref()];
        both.into_iter()
            .flatten()
            .filter_map(Slots::next_deadline)
            .min()
    }

    /// The owners of a slot in this node's shard, the arbiter first.
    pub fn owners(&self, slot: Slot) -> Owners {
        self.local().owners(slot)
    }

    /// The owners of a slot in the whole cluster. Empty if the cluster is one shard.
    pub fn global_owners(&self, slot: Slot) -> Owners {
        match self.shard {
            Some(_) => self.cluster.owners(slot),
            None => Owners::NONE,
        }
    }

    /// The number of shards: a power of two.
    pub fn shard_count(&self) -> u64 {
        self.shards
    }

    /// The number of a node's shard.
    pub fn shard_of(&self, node: &NodeId) -> u64 {
        Shard::of(node, self.shards).index
    }

    /// See [`Slots::previous_arbiter`], of this node's shard.
    pub fn previous_arbiter(&self, slot: Slot) -> Option<NodeId> {
        self.local().previous_arbiter(slot)
    }

    /// The slots whose owners in this node's shard have changed since the last call.
    pub fn take_changes(&mut self) -> Vec<SlotChange> {
        self.shard
            .as_mut()
            .unwrap_or(&mut self.cluster)
            .take_changes()
    }

    /// The slots whose [`ShardMap::global_owners`] have changed since the last call.
    pub fn take_global_changes(&mut self) -> Vec<SlotChange> {
        match self.shard {
            Some(_) => self.cluster.take_changes(),
            None => Vec::new(),
        }
    }
}

/// One shard among several.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shard {
    index: u64,
    shards: u64,
}

impl Shard {
    fn of(node: &NodeId, shards: u64) -> Self {
        Self {
            index: node.hash() & (shards - 1),
            shards,
        }
    }

    fn contains(&self, node: &NodeId) -> bool {
        Self::of(node, self.shards) == *self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::Born;
    use crate::members::{Contact, Member};

    fn node(number: u32) -> NodeId {
        let mut id = [7; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        NodeId(id)
    }

    fn joined(number: u32) -> Change {
        Change::Joined(Member {
            id: node(number),
            contact: Contact::default().into(),
            incarnation: 0,
            born: Born::from_age(Time(0), Duration::from_secs(3600)),
        })
    }

    #[test]
    fn a_cluster_is_divided_by_its_size() {
        for (members, expected) in [
            (0, 1),
            (1, 1),
            (1_024, 1),
            (2_047, 1),
            (2_048, 2),
            (10_000, 8),
        ] {
            let shards = ShardMap::new(node(0)).shard_count_for(members);
            assert_eq!(shards, expected, "{members} members");
        }
    }

    #[test]
    fn a_global_owner_of_a_slot_owns_it_in_its_shard_too() {
        let all: Vec<_> = (0..4_200).map(joined).collect();
        let mut shard_maps: Vec<_> = (0..40).map(|number| ShardMap::new(node(number))).collect();
        shard_maps
            .iter_mut()
            .for_each(|shard_map| shard_map.update(Time(0), &all));
        let shards: BTreeSet<_> = shard_maps.iter().map(|r| r.shard_of(&r.me)).collect();
        assert_eq!(shards.len(), 4);
        for slot in Slot::all() {
            let root = shard_maps[0]
                .global_owners(slot)
                .arbiter()
                .expect("there are shards");
            for shard_map in &shard_maps {
                assert_eq!(shard_map.global_owners(slot).arbiter(), Some(root));
                let arbiter = shard_map
                    .owners(slot)
                    .arbiter()
                    .expect("a shard has members");
                assert_eq!(
                    shard_map.shard_of(&arbiter),
                    shard_map.shard_of(&shard_map.me)
                );
                let is_in_my_shard = shard_map.shard_of(&root) == shard_map.shard_of(&shard_map.me);
                assert_eq!(arbiter == root, is_in_my_shard);
            }
        }
    }

    #[test]
    fn a_cluster_that_grows_and_shrinks_tells_which_slots_move() {
        let mut shard_map = ShardMap::new(node(0));
        shard_map.update(Time(0), &(0..2_000).map(joined).collect::<Vec<_>>());
        let mut known: Vec<_> = Slot::all().map(|_| Owners::NONE).collect();
        let mut check = |shard_map: &mut ShardMap| {
            for change in shard_map.take_changes() {
                assert_eq!(known[change.slot.index()], change.before);
                known[change.slot.index()] = change.after;
            }
            for slot in Slot::all() {
                assert_eq!(known[slot.index()], shard_map.owners(slot));
            }
        };
        check(&mut shard_map);
        assert!(shard_map.global_owners(Slot::of(&[0; 16])).is_empty());
        shard_map.update(Time(1), &(2_000..2_100).map(joined).collect::<Vec<_>>());
        check(&mut shard_map);
        assert_eq!(shard_map.global_owners(Slot::of(&[0; 16])).len(), 3);
        let left = (1_900..2_100).map(|number| Change::Left(node(number)));
        shard_map.update(Time(2), &left.collect::<Vec<_>>());
        check(&mut shard_map);
        assert!(shard_map.global_owners(Slot::of(&[0; 16])).is_empty());
    }
}
