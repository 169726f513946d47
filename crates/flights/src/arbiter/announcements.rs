//! Which nodes and shards hold what, as they announce it.

use crate::holdings::fold;
use crate::outbox::Context;
use crate::slots::Slot;
use crate::view::View;
use crate::wire::{self, Announce, Renew};
use crate::{Key, NodeId};

use super::flight::{Source, State};
use super::records::{Announcer, MAX_HOLDERS};
use super::{Arbiter, MAX_FOUND, PURGE, tree};

impl Arbiter {
    /// Handles announcements of a node, for itself or for its shard.
    pub fn announced(
        &mut self,
        from: NodeId,
        announce: &Announce,
        cx: &mut Context<'_, impl View>,
    ) {
        let from = Announcer::new(from, announce.of_shard);
        self.purge_at.get_or_insert(cx.now.after(PURGE));
        self.forget(from, announce.forget);
        for key in &wire::keys(&announce.add) {
            *self.announced.entry((from, Slot::of(&key.0))).or_default() ^= fold(0, key);
            match from {
                Announcer::Holder(node) => self.add_holder(node, *key, cx),
                Announcer::Shard(arbiter) => self.add_shard(arbiter, *key, cx),
            }
        }
        for key in &wire::keys(&announce.remove) {
            *self.announced.entry((from, Slot::of(&key.0))).or_default() ^= fold(0, key);
            match from {
                Announcer::Holder(node) => self.remove_holder(node, key),
                Announcer::Shard(arbiter) => self.remove_shard(arbiter, key),
            }
        }
    }

    /// Records that a node holds an object.
    fn add_holder(&mut self, node: NodeId, key: Key, cx: &mut Context<'_, impl View>) {
        let Some(record) = self.records.entry(key) else {
            return;
        };
        if record.holders.is_empty() {
            self.held.push((key, true));
        }
        if record.holders.len() < MAX_HOLDERS && !record.holders.contains(&node) {
            record.holders.push(node);
        }
        if let Some(flight) = &mut record.flight {
            let asked = flight.get(&node).map(|source| source.asked);
            flight.put(cx.now, node, State::Complete, asked.unwrap_or_default());
            self.answer_waiting(key, cx);
        }
    }

    /// Records that a shard holds an object.
    fn add_shard(&mut self, arbiter: NodeId, key: Key, cx: &mut Context<'_, impl View>) {
        if let Some(record) = self.records.entry(key) {
            let shard = cx.view.shard_of(&arbiter);
            record
                .shards
                .retain(|other| cx.view.shard_of(other) != shard);
            record.shards.push(arbiter);
            self.answer_waiting(key, cx);
        }
    }

    /// Records that a shard no longer holds an object.
    fn remove_shard(&mut self, arbiter: NodeId, key: &Key) {
        if let Some(record) = self.records.get_mut(key) {
            record.shards.retain(|other| *other != arbiter);
            self.records.tidy(key);
        }
    }

    /// Returns keys that a node of this shard has begun to hold (true), or that none holds any more (false), since the
    /// last call.
    pub fn take_held_changes(&mut self) -> Vec<(Key, bool)> {
        std::mem::take(&mut self.held)
    }

    /// The keys of a slot that some node of this shard holds.
    pub fn held(&self, slot: Slot) -> Vec<Key> {
        self.records.held(slot).copied().collect()
    }

    /// The arbiter of a shard that holds a key, other than the asker's shard.
    pub fn arbiter_of_other_shard(
        &self,
        key: &Key,
        asker: &NodeId,
        view: &impl View,
    ) -> Option<NodeId> {
        let shards = self.records.get(key)?.shards.iter();
        let mut others = shards.filter(|arbiter| {
            **arbiter != view.me() && view.shard_of(arbiter) != view.shard_of(asker)
        });
        others.next().copied()
    }

    /// Compares hashes with those of the announcer. Returns the slots that differ, one bit each.
    pub fn renewed(&self, from: Announcer, renew: &Renew) -> u64 {
        let announced = Slot::all().filter(|slot| renew.slots >> slot.index() & 1 == 1);
        let differs = announced.zip(&renew.hashes).filter(|(slot, hash)| {
            self.announced
                .get(&(from, *slot))
                .copied()
                .unwrap_or_default()
                != **hash
        });
        differs.fold(0, |slots, (slot, _)| slots | 1 << slot.index())
    }

    /// Forgets what an announcer announced in these slots, one bit each.
    pub(super) fn forget(&mut self, announcer: Announcer, slots: u64) {
        for slot in Slot::all().filter(|slot| slots >> slot.index() & 1 == 1) {
            if self.announced.remove(&(announcer, slot)).is_some() {
                self.forget_where(slot, |other| *other == announcer);
            }
        }
    }

    fn forget_where(&mut self, slot: Slot, is_over: impl Fn(&Announcer) -> bool) {
        let lost = self.records.forget(slot, is_over);
        self.held.extend(lost.into_iter().map(|key| (key, false)));
    }

    /// Records that a node no longer holds an object.
    fn remove_holder(&mut self, node: NodeId, key: &Key) {
        let Some(record) = self.records.get_mut(key) else {
            return;
        };
        record.holders.retain(|holder| *holder != node);
        if record.holders.is_empty() {
            self.held.push((*key, false));
        }
        if let Some(flight) = &mut record.flight {
            let is_complete = |s: &Source| s.state == State::Complete;
            if flight.get(&node).is_some_and(is_complete) {
                flight.remove(&node);
            }
        }
        self.records.tidy(key);
    }

    /// Forgets all announcements in slots that this node no longer owns, one bit each. Flights in progress end by
    /// themselves.
    pub fn disowned(&mut self, slots: u64) {
        for slot in Slot::all().filter(|slot| slots >> slot.index() & 1 == 1) {
            self.announced
                .retain(|(_, announced), _| *announced != slot);
            self.forget_where(slot, |_| true);
        }
    }

    /// The complete holders of a key, [`MAX_FOUND`] at most; a different selection for each asker.
    pub fn holders(&self, key: &Key, asker: NodeId) -> Vec<NodeId> {
        let Some(record) = self.records.get(key) else {
            return Vec::new();
        };
        let landed = record.flight.iter().flat_map(|flight| flight.sources());
        let landed = landed.filter(|source| source.state == State::Complete);
        let mut holders: Vec<_> = landed.map(|source| source.node).collect();
        holders.extend(&record.holders);
        holders.retain(|holder| *holder != asker);
        holders.sort_unstable_by_key(|holder| (tree::tie_break(holder, asker.hash()), *holder));
        holders.dedup();
        holders.truncate(MAX_FOUND);
        holders
    }
}
