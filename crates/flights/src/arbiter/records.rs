//! What an owner keeps about each key, grouped by slot, so that forgetting one slot touches no other.

use std::collections::HashMap;

use crate::slots::{SLOTS, Slot};
use crate::{Key, NodeId};

use super::flight::Flight;

/// The most complete holders kept for one key. More are not needed to spread an object.
pub(super) const MAX_HOLDERS: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Record {
    pub holders: Vec<NodeId>,
    pub flight: Option<Box<Flight>>,
}

impl Record {
    fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.flight.is_none()
    }
}

/// The records of all keys. What limits them is [`MAX_KEPT`](super::announcers::MAX_KEPT) and
/// [`MAX_FLIGHTS`](super::participations::MAX_FLIGHTS): none is empty for long.
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

    /// Adds a holder of a key. Returns whether it is kept, and was not before.
    pub fn add_holder(&mut self, key: Key, node: NodeId) -> bool {
        let Some(Record { holders, .. }) = self.entry(key) else {
            return false;
        };
        let is_kept = holders.len() < MAX_HOLDERS && !holders.contains(&node);
        if is_kept {
            if holders.is_empty() {
                // Most keys of small clusters have few holders.
                holders.reserve_exact(1);
            }
            holders.push(node);
        }
        is_kept
    }

    /// Removes a holder of a key. Returns whether it was kept.
    pub fn remove_holder(&mut self, key: &Key, node: &NodeId) -> bool {
        let Some(Record { holders, .. }) = self.get_mut(key) else {
            return false;
        };
        let before = holders.len();
        holders.retain(|holder| holder != node);
        holders.len() < before
    }

    /// Removes the record of a key if it is empty.
    pub fn tidy(&mut self, key: &Key) {
        if let Some(slot) = self.slots.get_mut(Slot::of(&key.0).index())
            && slot.get(key).is_some_and(Record::is_empty)
        {
            slot.remove(key);
        }
    }

    /// Forgets holders of the keys of a slot.
    pub fn forget(&mut self, slot: Slot, is_over: impl Fn(&NodeId) -> bool) {
        if let Some(slot) = self.slots.get_mut(slot.index()) {
            slot.retain(|_, record| {
                record.holders.retain(|holder| !is_over(holder));
                !record.is_empty()
            });
        }
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
