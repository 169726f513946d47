//! Records which nodes hold which objects, as the nodes announce it.

use crate::holdings::fold;
use crate::outbox::Context;
use crate::slots::Slot;
use crate::view::View;
use crate::wire::{self, Announce, FindHolders, Holders, Message, Renew, node_field, nodes_field};
use crate::{Key, NodeId};

use super::asker::Asker;
use super::flight::{Source, State};
use super::records::AddedHolder;
use super::{Arbiter, MAX_FOUND, PURGE, tree};

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
        for key in wire::keys(&announce.add) {
            self.add_holder(from, key, cx);
        }
        for key in &wire::keys(&announce.remove) {
            self.remove_holder(from, key);
        }
    }

    /// Records that a node holds an object.
    fn add_holder(&mut self, node: NodeId, key: Key, cx: &mut Context<'_, impl View>) {
        let (slot, is_member) = (Slot::of(&key.0), cx.view.is_member(&node));
        let Some(announced) = self.announced.entry(node, slot, is_member) else {
            self.dropped += 1;
            return;
        };
        announced.hash = fold(announced.hash, &key);
        if !self.make_room(&node) {
            self.announced.mark_incomplete(node, slot);
            self.dropped += 1;
            return;
        }
        let added = self.records.add_holder(key, node, self.holder_seed);
        if let AddedHolder::KeptInsteadOf(other) = added {
            self.announced.count_withdrawn(other, slot);
        }
        if !matches!(added, AddedHolder::NotKept) {
            self.announced.count_kept(node, slot);
        }
        if self.flight(&key).is_some()
            && let Some(flight) = self.open(cx.now, key, [node], cx.view)
        {
            let asked = flight.get(&node).map(|source| source.asked);
            flight.put(cx.now, node, State::Complete, asked.unwrap_or_default());
            self.answer_waiting(key, cx);
        }
    }

    /// Makes room for one more key of a node: until there is room, the node with most keys loses those of a slot.
    /// Returns whether there is room: there is none if that node itself has most.
    fn make_room(&mut self, node: &NodeId) -> bool {
        while !self.announced.has_room() {
            let Some((most, slot)) = self.announced.most_beside(node) else {
                return false;
            };
            self.dropped += self.announced.drop_all(most, slot) as u64;
            self.forget_holders(slot, |holder| *holder == most);
        }
        true
    }

    /// Forgets holders of the keys of a slot. Those that were not kept and are needed now will announce them again.
    fn forget_holders(&mut self, slot: Slot, is_over: impl Fn(&NodeId) -> bool) {
        if self.records.forget(slot, is_over) {
            self.announced.ask_again(slot);
        }
    }

    /// Compares hashes with those of the announcer. Returns the slots that it should announce again, one bit each:
    /// those that differ, and those with dropped keys that can be kept now.
    pub fn renewed(&self, from: NodeId, renew: &Renew) -> u64 {
        let announced = Slot::all().filter(|slot| renew.slots >> slot.index() & 1 == 1);
        let differs = announced.zip(&renew.hashes).filter(|(slot, hash)| {
            self.announced.hash(from, *slot) != **hash || self.announced.lacks(from, *slot)
        });
        differs.fold(0, |slots, (slot, _)| slots | 1 << slot.index())
    }

    /// Forgets what a node announced in these slots, one bit each.
    pub(super) fn forget(&mut self, node: NodeId, slots: u64) {
        for slot in Slot::all().filter(|slot| slots >> slot.index() & 1 == 1) {
            if self.announced.forget(node, slot) {
                self.forget_holders(slot, |holder| *holder == node);
            }
        }
    }

    /// Records that a node no longer holds an object.
    fn remove_holder(&mut self, node: NodeId, key: &Key) {
        let slot = Slot::of(&key.0);
        if let Some(announced) = self.announced.get_mut(node, slot) {
            announced.hash = fold(announced.hash, key);
        }
        let (was_kept, lacks_holders) = self.records.remove_holder(key, &node);
        if was_kept {
            self.announced.count_withdrawn(node, slot);
        }
        if lacks_holders {
            self.announced.ask_again(slot);
        }
        if let Some(flight) = self.flight(key) {
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
            self.announced.forget_slot(slot);
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
