//! What an owner keeps about each key, grouped by slot, so that forgetting one slot touches no other.

use std::collections::HashMap;

use crate::slots::{SLOTS, Slot};
use crate::{Key, NodeId};

use super::flight::Flight;

/// The most complete holders kept for one key. More are not needed to spread an object.
pub(super) const MAX_HOLDERS: usize = 32;
/// The most keys, about 300 bytes each: enough for 13,000 images of 20 objects each.
const MAX_RECORDS: usize = 1 << 18;

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

#[derive(Debug, Default)]
pub(super) struct Records {
    slots: Vec<HashMap<Key, Record>>,
    len: usize,
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

    /// Returns the record of a key, and creates it if there is none. `None`: there are too many.
    pub fn entry(&mut self, key: Key) -> Option<&mut Record> {
        self.slots.resize_with(SLOTS, HashMap::new);
        let slot = self.slots.get_mut(Slot::of(&key.0).index())?;
        if !slot.contains_key(&key) {
            if self.len >= MAX_RECORDS {
                return None;
            }
            self.len += 1;
        }
        Some(slot.entry(key).or_default())
    }

    /// Removes the record of a key if it is empty.
    pub fn tidy(&mut self, key: &Key) {
        if let Some(slot) = self.slots.get_mut(Slot::of(&key.0).index())
            && slot.get(key).is_some_and(Record::is_empty)
        {
            slot.remove(key);
            self.len -= 1;
        }
    }

    /// Forgets holders of the keys of a slot.
    pub fn forget(&mut self, slot: Slot, is_over: impl Fn(&NodeId) -> bool) {
        if let Some(slot) = self.slots.get_mut(slot.index()) {
            let before = slot.len();
            slot.retain(|_, record| {
                record.holders.retain(|holder| !is_over(holder));
                !record.is_empty()
            });
            self.len -= before - slot.len();
        }
    }

    #[cfg(test)]
    pub fn check(&self, is_holder: impl Fn(&NodeId) -> bool) {
        let records = self.slots.iter().flat_map(HashMap::values);
        assert_eq!(records.clone().count(), self.len);
        for record in records {
            assert!(!record.is_empty() && record.holders.iter().all(&is_holder));
        }
    }
}
