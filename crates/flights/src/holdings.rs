//! What this node holds complete, and telling owners of it: changes in batches, a hash now and then, everything when
//! an owner is new or has lost count.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::outbox::Outbox;
use crate::random::mix;
use crate::slots::{Owners, SLOTS, Slot};
use crate::view::View;
use crate::wire::{MAX_KEYS, Message};
use crate::{Key, NodeId, Time};

/// Changes wait that long for others to go with them.
const BATCH: Duration = Duration::from_millis(40);
/// Between two comparisons of hashes with the owners.
const RENEW: Duration = Duration::from_secs(10 * 60);

/// A hash over a set of keys: whatever the order, equal sets, equal hashes.
pub(crate) fn fold(hash: u64, key: &Key) -> u64 {
    hash ^ mix(key.hash())
}

#[derive(Debug, Default)]
pub(crate) struct Holdings {
    /// They are those of this node's district: what the arbiter of a district tells the owners in the whole cluster.
    of_district: bool,
    slots: Vec<HashSet<Key>>,
    /// Keys that have come (true) or gone since owners were last told.
    changed: BTreeMap<Key, bool>,
    flush_at: Option<Time>,
    renew_at: Option<Time>,
    /// Owners to be told everything of these slots, a bit each.
    whole: BTreeMap<NodeId, u64>,
}

impl Holdings {
    pub fn of_district() -> Self {
        Self {
            of_district: true,
            ..Self::default()
        }
    }

    /// Who is told of a slot.
    fn owners(&self, slot: Slot, view: &impl View) -> Owners {
        if !self.of_district {
            return view.owners(slot);
        }
        let is_arbiter = view.owners(slot).arbiter() == Some(view.me());
        view.roots(slot)
            .who(|root| is_arbiter && *root != view.me())
    }

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

    /// Owners are to be told all of these slots (a bit each), as soon as changes are told next.
    pub fn tell_whole(&mut self, now: Time, owner: NodeId, slots: u64) {
        if self.slots.is_empty() {
            return;
        }
        *self.whole.entry(owner).or_default() |= slots;
        self.flush_at.get_or_insert(now.after(BATCH));
    }

    pub fn next_deadline(&self) -> Option<Time> {
        [self.flush_at, self.renew_at].into_iter().flatten().min()
    }

    pub fn tick(&mut self, now: Time, view: &impl View, out: &mut Outbox) {
        // Who does not know the owners yet tells them when it does.
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_at = None;
            self.flush(view, out);
        }
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew_at = Some(now.after(RENEW));
            self.renew(view, out);
        }
    }

    fn flush(&mut self, view: &impl View, out: &mut Outbox) {
        let whole = std::mem::take(&mut self.whole);
        let mut changes: BTreeMap<NodeId, (Vec<Key>, Vec<Key>)> = BTreeMap::new();
        for (key, here) in std::mem::take(&mut self.changed) {
            let slot = Slot::of(&key.0);
            for owner in self.owners(slot, view).iter() {
                let is_told_whole = whole
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
            self.announce(out, owner, &add, &remove);
        }
        for (owner, slots) in whole {
            let is_meant = |slot: &Slot| {
                slots >> slot.index() & 1 == 1 && self.owners(*slot, view).contains(&owner)
            };
            self.tell(owner, Slot::all().filter(is_meant), out);
        }
    }

    /// Tells an owner all of these slots. Messages may overtake each other, so each one makes it forget no more than
    /// it tells anew; only a slot that takes several is at the mercy of their order.
    fn tell(&self, owner: NodeId, slots: impl Iterator<Item = Slot>, out: &mut Outbox) {
        let mut forget = 0;
        let mut add: Vec<Key> = Vec::new();
        let mut send = |forget: &mut u64, add: Vec<Key>| {
            let forget = std::mem::take(forget);
            if forget != 0 || !add.is_empty() {
                let remove = Vec::new();
                out.send(
                    owner,
                    Message::Announce {
                        of_district: self.of_district,
                        forget,
                        add,
                        remove,
                    },
                );
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

    fn renew(&self, view: &impl View, out: &mut Outbox) {
        let mut hashes: BTreeMap<NodeId, (u64, Vec<u64>)> = BTreeMap::new();
        for (slot, keys) in Slot::all().zip(&self.slots) {
            let hash = keys.iter().fold(0, fold);
            for owner in self.owners(slot, view).iter() {
                let (slots, of_owner) = hashes.entry(*owner).or_default();
                *slots |= 1 << slot.index();
                of_owner.push(hash);
            }
        }
        for (owner, (slots, hashes)) in hashes {
            out.send(
                owner,
                Message::Renew {
                    of_district: self.of_district,
                    slots,
                    hashes,
                },
            );
        }
    }

    /// Tells an owner what has changed, in as many messages as it takes.
    fn announce(&self, out: &mut Outbox, owner: NodeId, add: &[Key], remove: &[Key]) {
        let all = add.iter().map(|key| (*key, true));
        let all: Vec<_> = all.chain(remove.iter().map(|key| (*key, false))).collect();
        for part in all.chunks(MAX_KEYS) {
            let pick = |here: bool| {
                let keys = part.iter().filter(|(_, h)| *h == here);
                keys.map(|(key, _)| *key).collect()
            };
            let (add, remove) = (pick(true), pick(false));
            out.send(
                owner,
                Message::Announce {
                    of_district: self.of_district,
                    forget: 0,
                    add,
                    remove,
                },
            );
        }
    }
}
