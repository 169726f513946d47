//! The records of an owner about each key, grouped by slot, so that forgetting one slot touches no other.

use std::collections::HashMap;

use crate::slots::{SLOTS, Slot};
use crate::{Key, NodeId};

use super::flight::Flight;
use super::tree::tie_break;

/// The most complete holders kept for one key, drawn from all that have announced it. Spreading an object needs no
/// more.
const MAX_HOLDERS: usize = 32;
/// The number of kept holders below which others are asked to announce the key again: as many as a lookup names.
const MIN_HOLDERS: usize = super::MAX_FOUND;

#[derive(Debug, Default)]
pub(super) struct Record {
    pub holders: Vec<NodeId>,
    /// Whether there were more holders than are kept.
    has_more_holders: bool,
    pub flight: Option<Box<Flight>>,
}

impl Record {
    fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.flight.is_none()
    }

    /// Removes holders. Returns how many, and whether others are needed that were not kept.
    fn remove_holders(&mut self, is_over: impl Fn(&NodeId) -> bool) -> (usize, bool) {
        let before = self.holders.len();
        self.holders.retain(|holder| !is_over(holder));
        let lacks = self.has_more_holders && self.holders.len() < MIN_HOLDERS;
        self.has_more_holders &= !lacks;
        (before - self.holders.len(), lacks)
    }
}

/// The outcome of adding a holder of a key.
pub(super) enum AddedHolder {
    Kept,
    KeptInsteadOf(NodeId),
    /// There are better ones, or it is kept already.
    NotKept,
}

/// The records of all keys. [`MAX_KEPT`](super::announcers::MAX_KEPT) and
/// [`MAX_FLIGHTS`](super::participations::MAX_FLIGHTS) limit them, as none is empty for long.
#[derive(Debug, Default)]
pub(super) struct Records {
    slots: Vec<HashMap<Key, Record>>,
}

impl Records {
    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.slots.get(Slot::of(&key.0).index())?.get(key)
    }

    pub fn flight(&self, key: &Key) -> Option<&Flight> {
        self.get(key)?.flight.as_deref()
    }

    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Record> {
        self.slots.get_mut(Slot::of(&key.0).index())?.get_mut(key)
    }

    /// Returns the record of a key, and creates it if there is none.
    pub fn entry(&mut self, key: Key) -> Option<&mut Record> {
        self.slots.resize_with(SLOTS, HashMap::new);
        let slot = self.slots.get_mut(Slot::of(&key.0).index())?;
        Some(slot.entry(key).or_default())
    }

    /// Adds a holder of a key. If there are too many, those that rank first by a hash with a secret seed are kept. So
    /// no node can keep out others, neither by announcing first nor by choosing its id.
    pub fn add_holder(&mut self, key: Key, node: NodeId, seed: u64) -> AddedHolder {
        let Some(record) = self.entry(key) else {
            return AddedHolder::NotKept;
        };
        let holders = &mut record.holders;
        if holders.contains(&node) {
            return AddedHolder::NotKept;
        }
        if holders.len() < MAX_HOLDERS {
            if holders.is_empty() {
                // Most keys of small clusters have few holders.
                holders.reserve_exact(1);
            }
            holders.push(node);
            return AddedHolder::Kept;
        }
        record.has_more_holders = true;
        let rank = |holder: &NodeId| tie_break(holder, seed ^ key.hash());
        match holders.iter_mut().max_by_key(|holder| rank(holder)) {
            Some(last) if rank(&node) < rank(last) => {
                AddedHolder::KeptInsteadOf(std::mem::replace(last, node))
            }
            _ => AddedHolder::NotKept,
        }
    }

    /// Removes a holder of a key. Returns whether it was kept, and whether others are needed that were not kept.
    pub fn remove_holder(&mut self, key: &Key, node: &NodeId) -> (bool, bool) {
        let Some(record) = self.get_mut(key) else {
            return (false, false);
        };
        let (removed, lacks) = record.remove_holders(|holder| holder == node);
        (removed > 0, lacks)
    }

    /// Removes the record of a key if it is empty.
    pub fn tidy(&mut self, key: &Key) {
        if let Some(slot) = self.slots.get_mut(Slot::of(&key.0).index())
            && slot.get(key).is_some_and(Record::is_empty)
        {
            slot.remove(key);
        }
    }

    /// Forgets holders of the keys of a slot. Returns whether others are needed that were not kept.
    pub fn forget(&mut self, slot: Slot, is_over: impl Fn(&NodeId) -> bool) -> bool {
        let mut lacks_any = false;
        if let Some(slot) = self.slots.get_mut(slot.index()) {
            slot.retain(|_, record| {
                let (_, lacks) = record.remove_holders(&is_over);
                lacks_any |= lacks;
                !record.is_empty()
            });
        }
        lacks_any
    }

    /// Checks that no record is empty. Returns how many keys each node holds.
    #[cfg(test)]
    pub fn check(&self) -> std::collections::BTreeMap<NodeId, usize> {
        let mut kept = std::collections::BTreeMap::new();
        for record in self.slots.iter().flat_map(HashMap::values) {
            assert!(!record.is_empty());
            for holder in &record.holders {
                *kept.entry(*holder).or_default() += 1;
            }
        }
        kept
    }
}
