//! The complete objects of this node, and their announcement to owners: changes in batches, a hash now and then, and
//! everything if an owner is new or its hash differs.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::outbox::{Context, Outbox};
use crate::random::mix;
use crate::slots::{SLOTS, Slot};
use crate::view::View;
use crate::wire::{Announce, MAX_KEYS, Message, Renew, keys_field};
use crate::{Key, NodeId, Time};

/// Changes are collected for this long.
const BATCH: Duration = Duration::from_millis(40);
/// The interval between comparisons of hashes with the owners.
const RENEW: Duration = Duration::from_secs(10 * 60);

/// Folds a key into a hash over a set of keys. The order does not matter.
pub(crate) fn fold(hash: u64, key: &Key) -> u64 {
    hash ^ mix(key.hash())
}

#[derive(Debug, Default)]
pub(crate) struct Holdings {
    slots: Vec<HashSet<Key>>,
    /// Keys that were added (true) or removed (false) since the last announcement.
    changed: BTreeMap<Key, bool>,
    flush_at: Option<Time>,
    renew_at: Option<Time>,
    /// The owners that were sent the hashes of slots (one bit each), and have not found them to differ yet.
    renewed: BTreeMap<NodeId, u64>,
    /// Owners that get a complete announcement of these slots, one bit each.
    announce_all_to: BTreeMap<NodeId, u64>,
}

impl Holdings {
    pub fn add(&mut self, now: Time, keys: &[Key]) {
        self.slots.resize_with(SLOTS, HashSet::new);
        for key in keys {
            let slot = Slot::of(&key.0).index();
            if self.slots.get_mut(slot).is_some_and(|s| s.insert(*key)) {
                self.change(now, *key, true);
            }
        }
    }

    pub fn remove(&mut self, now: Time, keys: &[Key]) {
        for key in keys {
            let slot = Slot::of(&key.0).index();
            if self.slots.get_mut(slot).is_some_and(|s| s.remove(key)) {
                self.change(now, *key, false);
            }
        }
    }

    fn change(&mut self, now: Time, key: Key, here: bool) {
        self.changed.insert(key, here);
        self.flush_at.get_or_insert(now.after(BATCH));
        self.renew_at.get_or_insert(now.after(RENEW));
    }

    /// Announces slots (one bit each) again to an owner that was sent their hashes, once each.
    pub fn resync(&mut self, now: Time, owner: NodeId, slots: u64) {
        if let Some(renewed) = self.renewed.get_mut(&owner) {
            let slots = *renewed & slots;
            *renewed &= !slots;
            if slots != 0 {
                self.announce_all(now, owner, slots);
            }
        }
    }

    /// Announces everything in these slots (one bit each) to an owner, with the next changes.
    pub fn announce_all(&mut self, now: Time, owner: NodeId, slots: u64) {
        if self.slots.is_empty() {
            return;
        }
        *self.announce_all_to.entry(owner).or_default() |= slots;
        self.flush_at.get_or_insert(now.after(BATCH));
    }

    pub fn next_deadline(&self) -> Option<Time> {
        [self.flush_at, self.renew_at].into_iter().flatten().min()
    }

    pub fn tick(&mut self, cx: &mut Context<'_, impl View>) {
        // A node that does not know the owners yet announces to them once it does.
        if self.flush_at.is_some_and(|at| at <= cx.now) {
            self.flush_at = None;
            self.flush(cx);
        }
        if self.renew_at.is_some_and(|at| at <= cx.now) {
            self.renew_at = Some(cx.now.after(RENEW));
            self.renewed.clear();
            self.renew(|_| true, cx);
        }
    }

    fn flush(&mut self, cx: &mut Context<'_, impl View>) {
        let announce_all_to = std::mem::take(&mut self.announce_all_to);
        let mut changes: BTreeMap<NodeId, (Vec<Key>, Vec<Key>)> = BTreeMap::new();
        for (key, here) in std::mem::take(&mut self.changed) {
            let slot = Slot::of(&key.0);
            for owner in cx.view.own_owners(slot).iter() {
                let is_told_whole = announce_all_to
                    .get(owner)
                    .is_some_and(|slots| slots >> slot.index() & 1 == 1);
                if is_told_whole {
                    continue;
                }
                let (add, remove) = changes.entry(*owner).or_default();
                if here { add } else { remove }.push(key);
            }
        }
        for (owner, (add, remove)) in changes {
            announce(cx.out, owner, &add, &remove);
        }
        for (owner, slots) in announce_all_to {
            let is_meant = |slot: &Slot| {
                slots >> slot.index() & 1 == 1 && cx.view.own_owners(*slot).contains(&owner)
            };
            self.tell(owner, Slot::all().filter(is_meant), cx.out);
        }
    }

    /// Announces everything in these slots to an owner.
    ///
    /// Messages may overtake each other, so each one makes the owner forget only what it announces itself. Only a slot
    /// that takes several messages depends on their order.
    fn tell(&self, owner: NodeId, slots: impl Iterator<Item = Slot>, out: &mut Outbox) {
        let mut forget = 0;
        let mut add: Vec<Key> = Vec::new();
        let mut send = |forget: &mut u64, add: Vec<Key>| {
            let forget = std::mem::take(forget);
            if forget != 0 || !add.is_empty() {
                send_announce(out, owner, forget, &add, &[]);
            }
        };
        for slot in slots {
            let keys: Vec<Key> = self
                .slots
                .get(slot.index())
                .into_iter()
                .flatten()
                .copied()
                .collect();
            if add.len() + keys.len() > MAX_KEYS {
                send(&mut forget, std::mem::take(&mut add));
            }
            forget |= 1 << slot.index();
            add.extend(keys);
            while add.len() > MAX_KEYS {
                let rest = add.split_off(MAX_KEYS);
                send(&mut forget, std::mem::replace(&mut add, rest));
            }
        }
        send(&mut forget, add);
    }

    /// Compares hashes with a node that can be reached again, if it is an owner: it has missed announcements.
    pub fn compare_with(&mut self, node: NodeId, cx: &mut Context<'_, impl View>) {
        self.renew(|owner| *owner == node, cx);
    }

    /// Compares hashes with these owners.
    fn renew(&mut self, is_meant: impl Fn(&NodeId) -> bool, cx: &mut Context<'_, impl View>) {
        let mut hashes: BTreeMap<NodeId, (u64, Vec<u64>)> = BTreeMap::new();
        for (slot, keys) in Slot::all().zip(&self.slots) {
            let owners = cx.view.own_owners(slot);
            let mut owners = owners.iter().filter(|owner| is_meant(owner)).peekable();
            if owners.peek().is_none() {
                continue;
            }
            let hash = keys.iter().fold(0, fold);
            for owner in owners {
                let (slots, of_owner) = hashes.entry(*owner).or_default();
                *slots |= 1 << slot.index();
                of_owner.push(hash);
            }
        }
        for (owner, (slots, hashes)) in hashes {
            self.renewed.insert(owner, slots);
            cx.out.send(owner, Message::Renew(Renew { slots, hashes }));
        }
    }
}

/// Announces changes to an owner, in as many messages as it takes.
fn announce(out: &mut Outbox, owner: NodeId, add: &[Key], remove: &[Key]) {
    let all = add.iter().map(|key| (*key, true));
    let all: Vec<_> = all.chain(remove.iter().map(|key| (*key, false))).collect();
    for part in all.chunks(MAX_KEYS) {
        let pick = |here: bool| {
            let keys = part.iter().filter(|(_, h)| *h == here);
            keys.map(|(key, _)| *key).collect()
        };
        let (add, remove): (Vec<_>, Vec<_>) = (pick(true), pick(false));
        send_announce(out, owner, 0, &add, &remove);
    }
}

fn send_announce(out: &mut Outbox, owner: NodeId, forget: u64, add: &[Key], remove: &[Key]) {
    let announce = Announce {
        forget,
        add: keys_field(add),
        remove: keys_field(remove),
    };
    out.send(owner, Message::Announce(announce));
}
