//! Records what each node has announced, by slot, and limits how much of it is kept.

use std::collections::{BTreeMap, BTreeSet};

use crate::NodeId;
use crate::slots::Slot;

/// The most announced keys kept, each with one of its holders: about 150 bytes. Beyond that, the node with most keys
/// loses some, so that no node keeps out others.
pub(super) const MAX_KEPT: usize = 1 << 16;
/// The most pairs of a node and a slot in which it has announced something, about 200 bytes each. Nodes that are not
/// members yet get half of them.
const MAX_ANNOUNCED_SLOTS: usize = 1 << 14;

/// What a node has announced in a slot.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announced {
    /// A hash over the keys.
    pub hash: u64,
    /// How many of the keys are kept.
    kept: usize,
    /// Whether other keys were dropped, or need other holders by now.
    is_incomplete: bool,
}

#[derive(Debug, Default)]
pub(super) struct Announcers {
    slots: BTreeMap<(NodeId, Slot), Announced>,
    /// The nodes with kept keys, by the number of these; most last.
    by_kept: BTreeSet<(usize, NodeId)>,
    /// The number of kept keys of each node, and of all nodes.
    kept_of: BTreeMap<NodeId, usize>,
    kept: usize,
}

impl Announcers {
    /// The hash over the keys that a node has announced in a slot.
    pub fn hash(&self, node: NodeId, slot: Slot) -> u64 {
        let announced = self.slots.get(&(node, slot));
        announced.map_or(0, |announced| announced.hash)
    }

    /// Whether a node should announce a slot again: keys were dropped, or need other holders, and there is room for them.
    pub fn lacks(&self, node: NodeId, slot: Slot) -> bool {
        let announced = self.slots.get(&(node, slot));
        self.kept < MAX_KEPT / 8 * 7 && announced.is_some_and(|announced| announced.is_incomplete)
    }

    /// What a node has announced in a slot, if anything.
    pub fn get_mut(&mut self, node: NodeId, slot: Slot) -> Option<&mut Announced> {
        self.slots.get_mut(&(node, slot))
    }

    /// The same, created if there is nothing. `None`: there are too many entries.
    pub fn entry(&mut self, node: NodeId, slot: Slot, is_member: bool) -> Option<&mut Announced> {
        let most = match is_member {
            true => MAX_ANNOUNCED_SLOTS,
            false => MAX_ANNOUNCED_SLOTS / 2,
        };
        let has_room = self.slots.len() < most || self.slots.contains_key(&(node, slot));
        has_room.then(|| self.slots.entry((node, slot)).or_default())
    }

    /// Whether one more key can be kept.
    pub fn has_room(&self) -> bool {
        self.kept < MAX_KEPT
    }

    /// The node with most kept keys, and the slot with most of them, if they are more than those of `node`.
    pub fn most_beside(&self, node: &NodeId) -> Option<(NodeId, Slot)> {
        let (kept, most) = self.by_kept.last()?;
        let own = self.kept_of.get(node).copied().unwrap_or_default();
        let kept_in = |slot: &Slot| self.slots.get(&(*most, *slot)).map_or(0, |it| it.kept);
        let slot = Slot::all().max_by_key(kept_in)?;
        (*kept > own).then_some((*most, slot))
    }

    /// Counts a key as kept.
    pub fn count_kept(&mut self, node: NodeId, slot: Slot) {
        if let Some(announced) = self.slots.get_mut(&(node, slot)) {
            announced.kept += 1;
            self.change(node, |kept| kept + 1);
        }
    }

    /// Counts a key as no longer kept: it was withdrawn.
    pub fn count_withdrawn(&mut self, node: NodeId, slot: Slot) {
        if let Some(announced) = self.slots.get_mut(&(node, slot)) {
            announced.kept -= 1;
            self.change(node, |kept| kept - 1);
        }
    }

    /// Counts all keys of a node in a slot as dropped. Returns how many were kept.
    pub fn drop_all(&mut self, node: NodeId, slot: Slot) -> usize {
        let Some(announced) = self.slots.get_mut(&(node, slot)) else {
            return 0;
        };
        announced.is_incomplete = true;
        let dropped = std::mem::take(&mut announced.kept);
        self.change(node, |kept| kept - dropped);
        dropped
    }

    /// Records that a key could not be kept.
    pub fn mark_incomplete(&mut self, node: NodeId, slot: Slot) {
        if let Some(announced) = self.slots.get_mut(&(node, slot)) {
            announced.is_incomplete = true;
        }
    }

    /// Records that keys of the slot need other holders: all nodes announce it again when they compare hashes next.
    pub fn ask_again(&mut self, slot: Slot) {
        let of_slot = self.slots.iter_mut().filter(|((_, it), _)| *it == slot);
        of_slot.for_each(|(_, announced)| announced.is_incomplete = true);
    }

    /// Forgets what a node has announced in a slot. Returns whether any of it was kept.
    pub fn forget(&mut self, node: NodeId, slot: Slot) -> bool {
        let had_any = self.drop_all(node, slot) > 0;
        self.slots.remove(&(node, slot));
        had_any
    }

    /// Forgets what all nodes have announced in a slot.
    pub fn forget_slot(&mut self, slot: Slot) {
        let in_slot = self
            .slots
            .keys()
            .filter(|(_, announced)| *announced == slot);
        for (node, slot) in in_slot.copied().collect::<Vec<_>>() {
            self.forget(node, slot);
        }
    }

    /// The nodes that have announced anything.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.slots.keys().map(|(node, _)| *node)
    }

    fn change(&mut self, node: NodeId, change: impl Fn(usize) -> usize) {
        let before = self.kept_of.remove(&node).unwrap_or_default();
        self.by_kept.remove(&(before, node));
        let after = change(before);
        self.kept = self.kept - before + after;
        if after > 0 {
            self.kept_of.insert(node, after);
            self.by_kept.insert((after, node));
        }
    }

    /// Checks that the counts are those of the records.
    #[cfg(test)]
    pub fn check(&self, kept_of: &BTreeMap<NodeId, usize>) {
        assert_eq!(&self.kept_of, kept_of);
        assert_eq!(self.kept, kept_of.values().sum::<usize>());
        let by_kept: BTreeSet<_> = kept_of.iter().map(|(node, kept)| (*kept, *node)).collect();
        assert_eq!(self.by_kept, by_kept);
        let mut of_slots = BTreeMap::<_, usize>::new();
        for ((node, _), announced) in self.slots.iter().filter(|(_, it)| it.kept > 0) {
            *of_slots.entry(*node).or_default() += announced.kept;
        }
        assert_eq!(&of_slots, kept_of);
    }
}
