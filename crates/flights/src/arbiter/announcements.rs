//! Which nodes hold what, as they announce it.

use crate::holdings::fold;
use crate::outbox::Context;
use crate::slots::Slot;
use crate::view::View;
use crate::wire::{self, Announce, FindHolders, Holders, Message, Renew, node_field, nodes_field};
use crate::{Key, NodeId};

use super::asker::Asker;
use super::flight::{Source, State};
use super::records::MAX_HOLDERS;
use super::{Arbiter, MAX_FOUND, PURGE, tree};

/// The most keys kept of one node: those of 3,000 images of 20 objects each.
const MAX_KEYS_BY_ONE: u32 = 1 << 16;

/// What a node has announced in a slot.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announced {
    /// A hash over the keys.
    hash: u64,
    keys: u32,
}

impl Arbiter {
    /// Handles announcements of a node.
    pub fn announced(
        &mut self,
        from: NodeId,
        announce: &Announce,
        cx: &mut Context<'_, impl View>,
    ) {
        self.purge_at.get_or_insert(cx.now.after(PURGE));
        self.forget(from, announce.forget);
        let mut room = MAX_KEYS_BY_ONE.saturating_sub(self.announced_by(&from));
        for key in &wire::keys(&announce.add) {
            if room == 0 {
                self.dropped += 1;
                continue;
            }
            room -= 1;
            let announced = self.announced.entry((from, Slot::of(&key.0))).or_default();
            announced.hash ^= fold(0, key);
            announced.keys += 1;
            self.add_holder(from, *key, cx);
        }
        for key in &wire::keys(&announce.remove) {
            let announced = self.announced.entry((from, Slot::of(&key.0))).or_default();
            announced.hash ^= fold(0, key);
            announced.keys = announced.keys.saturating_sub(1);
            self.remove_holder(from, key);
        }
    }

    /// How many keys a node has announced.
    fn announced_by(&self, node: &NodeId) -> u32 {
        let slots = Slot::all().filter_map(|slot| self.announced.get(&(*node, slot)));
        slots.map(|announced| announced.keys).sum()
    }

    /// Records that a node holds an object.
    fn add_holder(&mut self, node: NodeId, key: Key, cx: &mut Context<'_, impl View>) {
        let Some(record) = self.records.entry(key) else {
            self.dropped += 1;
            return;
        };
        if record.holders.len() < MAX_HOLDERS && !record.holders.contains(&node) {
            record.holders.push(node);
        }
        if let Some(flight) = &mut record.flight {
            let asked = flight.get(&node).map(|source| source.asked);
            flight.put(cx.now, node, State::Complete, asked.unwrap_or_default());
            self.parts.insert((node, key));
            self.answer_waiting(key, cx);
        }
    }

    /// Compares hashes with those of the announcer. Returns the slots that differ, one bit each.
    pub fn renewed(&self, from: NodeId, renew: &Renew) -> u64 {
        let announced = Slot::all().filter(|slot| renew.slots >> slot.index() & 1 == 1);
        let differs = announced.zip(&renew.hashes).filter(|(slot, hash)| {
            self.announced
                .get(&(from, *slot))
                .map_or(0, |announced| announced.hash)
                != **hash
        });
        differs.fold(0, |slots, (slot, _)| slots | 1 << slot.index())
    }

    /// Forgets what a node announced in these slots, one bit each.
    pub(super) fn forget(&mut self, node: NodeId, slots: u64) {
        for slot in Slot::all().filter(|slot| slots >> slot.index() & 1 == 1) {
            if self.announced.remove(&(node, slot)).is_some() {
                self.records.forget(slot, |holder| *holder == node);
            }
        }
    }

    /// Records that a node no longer holds an object.
    fn remove_holder(&mut self, node: NodeId, key: &Key) {
        let Some(record) = self.records.get_mut(key) else {
            return;
        };
        record.holders.retain(|holder| *holder != node);
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
            self.records.forget(slot, |_| true);
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

    /// Answers a lookup, or passes it on: the arbiters of all shards are asked in turn, from that of the node's own shard.
    pub fn find_holders(&self, from: Asker, find: &FindHolders, cx: &mut Context<'_, impl View>) {
        let (key, number, node) = (wire::key(&find.key), find.number, from.node);
        let (slot, me, shards) = (Slot::of(&key.0), cx.view.me(), cx.view.shard_count());
        let shard = cx.view.shard_of(&node);
        let holders = self.holders(&key, node);
        let owns = cx.view.owns(slot);
        if owns && holders.is_empty() {
            let rest = u64::from(find.shards_asked) + 1..shards;
            let mut others = rest.filter_map(|asked| {
                let arbiter = cx.view.owners(shard.next(asked, shards), slot).arbiter();
                Some((
                    u32::try_from(asked).ok()?,
                    arbiter.filter(|arbiter| *arbiter != me)?,
                ))
            });
            if let Some((shards_asked, other)) = others.next() {
                let find = FindHolders {
                    shards_asked,
                    ..find.clone()
                };
                return cx.out.pass_on(other, node, Message::FindHolders(find));
            }
        }
        let arbiter = cx.view.owners(shard, slot).arbiter();
        let found = Message::Holders(Holders {
            number,
            key: find.key.clone(),
            holders: nodes_field(holders),
            redirect: node_field(arbiter.filter(|_| !owns)),
        });
        match arbiter.filter(|arbiter| from.via.is_some() && *arbiter != me) {
            Some(arbiter) => cx.out.pass_on(arbiter, node, found),
            None => cx.out.send(node, found),
        }
    }
}
