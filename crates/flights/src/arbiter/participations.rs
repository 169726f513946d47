//! The flights and the nodes that take part in them: how many there may be, and which nodes leave some if there are too
//! many.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::flight::Flight;
use super::records::Record;
use super::{Arbiter, PURGE, QUIET_TICK};
use crate::random::mix;
use crate::slots::Slot;
use crate::view::View;
use crate::{Key, NodeId, Time};

/// The most flights at once, about 5 KB each.
pub(super) const MAX_FLIGHTS: usize = 1 << 11;
/// The most pairs of a node and a flight that it takes part in, about 500 bytes each: eight objects that all nodes of
/// the largest shard pull at once.
const MAX_PARTICIPATIONS: usize = 1 << 14;
/// If there are too many, a node that takes part in this many more than the asking node leaves some.
const UNFAIR_SHARE: usize = 64;

impl Arbiter {
    /// Returns the flight of a key in which these nodes take part, and starts it if there is none. `None`: this node
    /// does not own the key, or there are too many.
    pub(super) fn open(
        &mut self,
        now: Time,
        key: Key,
        nodes: impl IntoIterator<Item = NodeId> + Clone,
        view: &impl View,
    ) -> Option<&mut Flight> {
        let is_new = self.records.flight(&key).is_none();
        if is_new && !view.owns(Slot::of(&key.0)) {
            return None;
        }
        for node in nodes.clone() {
            let is_in = self.parts.contains(&(node, key));
            if !is_in && !self.make_room_for(now, node, is_new) {
                return None;
            }
        }
        let Self {
            records,
            epochs,
            check_queue,
            parts,
            ..
        } = self;
        self.purge_at.get_or_insert(now.after(PURGE));
        let Record {
            holders, flight, ..
        } = records.entry(key)?;
        let flight = flight.get_or_insert_with(|| {
            *epochs = mix(*epochs ^ now.0 ^ key.hash());
            // Odd in a shard: see `ChainPosition::epoch`.
            let global = view.global_arbiter(&key);
            let is_of_shard = global.is_some_and(|global| global != view.me());
            let epoch = *epochs & !1 | u64::from(is_of_shard);
            let mut flight = Flight::new(now, epoch, &key, holders);
            parts.extend(holders.iter().map(|holder| (*holder, key)));
            flight.due = now.after(QUIET_TICK);
            check_queue.insert((flight.due, key));
            Box::new(flight)
        });
        parts.extend(nodes.into_iter().map(|node| (node, key)));
        Some(flight)
    }

    /// Makes room for a node to take part in one more flight: until there is room, the node in most flights leaves half
    /// of them. Returns whether there is room: there is none if no other node takes part in many more.
    fn make_room_for(&mut self, now: Time, node: NodeId, in_new: bool) -> bool {
        let is_full = |arbiter: &Self| {
            let has_all_flights = arbiter.check_queue.len() >= MAX_FLIGHTS;
            arbiter.parts.len() >= MAX_PARTICIPATIONS || in_new && has_all_flights
        };
        while is_full(self) {
            let fair = self.parts.range(all_parts(node)).count() + UNFAIR_SHARE;
            let is_enough = |(most, at): (usize, Time)| most > fair || now >= at.after(QUIET_TICK);
            if !self.most_parts.is_none_or(is_enough) {
                return false;
            }
            let mut taken = BTreeMap::<NodeId, Vec<Key>>::new();
            for (node, key) in &self.parts {
                // Other nodes pull what it holds.
                let record = self.records.get(key);
                if !record.is_some_and(|record| record.holders.contains(node)) {
                    taken.entry(*node).or_default().push(*key);
                }
            }
            let most = taken.into_iter().max_by_key(|(_, keys)| keys.len());
            let (most, keys) = most.unwrap_or((node, Vec::new()));
            self.most_parts = Some((keys.len(), now));
            if keys.len() > fair {
                for key in keys.iter().step_by(2) {
                    self.take_out(most, *key);
                }
            }
        }
        true
    }

    /// Removes a node from a flight, which ends if no other node takes part.
    fn take_out(&mut self, node: NodeId, key: Key) {
        self.parts.remove(&(node, key));
        let Some(record) = self.records.get_mut(&key) else {
            return;
        };
        if let Some(flight) = &mut record.flight {
            flight.stop_waiting(&node);
            flight.remove(&node);
            if flight.waiting.is_empty() && !flight.has_sources() {
                self.check_queue.remove(&(flight.due, key));
                record.flight = None;
            }
        }
        self.records.tidy(&key);
    }
}

/// All pairs of a node and a flight.
pub(super) fn all_parts(node: NodeId) -> RangeInclusive<(NodeId, Key)> {
    (node, Key([0; 16]))..=(node, Key([u8::MAX; 16]))
}
