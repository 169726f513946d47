//! What an owner keeps of each key, by slot: what a node has told of one slot goes without a look at the others.

use std::collections::HashMap;

use crate::slots::{SLOTS, Slot};
use crate::{Key, NodeId};

use super::flight::Flight;

/// Complete holders of one key that are kept. Others who hold it are not needed to spread it.
pub(super) const MAX_HOLDERS: usize = 32;
/// Keys kept at most. At 2,000 images of 20 objects, all of them.
const MAX_RECORDS: usize = 1 << 20;

/// Who tells what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Teller {
    /// A node, of itself.
    Holder(NodeId),
    /// The arbiter of a district, of that.
    District(NodeId),
}

impl Teller {
    pub fn new(node: NodeId, of_district: bool) -> Self {
        if of_district {
            Self::District(node)
        } else {
            Self::Holder(node)
        }
    }

    pub fn node(&self) -> &NodeId {
        match self {
            Self::Holder(node) | Self::District(node) => node,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Record {
    pub holders: Vec<NodeId>,
    /// Arbiters of districts in which it is held, one of each: what the owners in the whole cluster are told.
    pub districts: Vec<NodeId>,
    pub flight: Option<Box<Flight>>,
}

impl Record {
    fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.districts.is_empty() && self.flight.is_none()
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

    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Record> {
        self.slots.get_mut(Slot::of(&key.0).index())?.get_mut(key)
    }

    /// The record of a key, a new one if there is none; `None` if there are too many.
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

    /// Forgets a key of which nothing is known any more.
    pub fn tidy(&mut self, key: &Key) {
        if let Some(slot) = self.slots.get_mut(Slot::of(&key.0).index())
            && slot.get(key).is_some_and(Record::is_empty)
        {
            slot.remove(key);
            self.len -= 1;
        }
    }

    /// Forgets what tellers have told of the keys of a slot. Returns those that are held no more.
    pub fn forget(&mut self, slot: Slot, is_over: impl Fn(&Teller) -> bool) -> Vec<Key> {
        let mut lost = Vec::new();
        if let Some(slot) = self.slots.get_mut(slot.index()) {
            let before = slot.len();
            slot.retain(|key, record| {
                let was_held = !record.holders.is_empty();
                record
                    .holders
                    .retain(|holder| !is_over(&Teller::Holder(*holder)));
                record
                    .districts
                    .retain(|arbiter| !is_over(&Teller::District(*arbiter)));
                if was_held && record.holders.is_empty() {
                    lost.push(*key);
                }
                !record.is_empty()
            });
            self.len -= before - slot.len();
        }
        lost
    }

    /// The keys of a slot that somebody holds.
    pub fn held(&self, slot: Slot) -> impl Iterator<Item = &Key> {
        let records = self.slots.get(slot.index()).into_iter().flatten();
        let held = records.filter(|(_, record)| !record.holders.is_empty());
        held.map(|(key, _)| key)
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
