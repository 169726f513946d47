//! What an owner does: it keeps who has what, and its arbiter says who leads and who follows whom.

mod flight;
mod grants;
mod place;
mod records;
mod reports;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::budget::BARRED;
use crate::holdings::fold;
use crate::outbox::Outbox;
use crate::random::mix;
use crate::slots::Slot;
use crate::view::View;
use crate::{Key, NodeId, Time};
use flight::{Flight, Source, State};
use records::{MAX_HOLDERS, Record, Records};

pub(crate) use place::SMALL;
pub(crate) use records::Teller;

/// Keys in flight at most.
const MAX_FLIGHTS: usize = 1 << 16;
/// Holders named in answer to a look-up.
const MAX_FOUND: usize = 8;
/// A lead that says nothing for so long has lapsed…
const LEAD_SILENCE: Duration = Duration::from_secs(2);
/// …and one that never said anything sooner.
const NEW_LEAD_SILENCE: Duration = Duration::from_millis(1_200);
/// A source that takes its bytes from another one says so more rarely.
const SOURCE_SILENCE: Duration = Duration::from_secs(90);
const MAX_BARRED: usize = 16_384;
/// Who said that it has a key complete has announced it by then.
const LANDING: Duration = Duration::from_secs(10);
/// A flight that nobody asks about is over.
const IDLE: Duration = Duration::from_secs(30);
/// Between looks at a flight, while nodes wait…
const BUSY_TICK: Duration = Duration::from_millis(50);
/// …and otherwise.
const QUIET_TICK: Duration = Duration::from_secs(1);
/// An arbiter that is new grants no lead before it has heard of those that there are.
const LEARNING: Duration = Duration::from_millis(600);
/// A tick so late was held up, and so was what others said.
const OVERSLEPT: Duration = Duration::from_secs(1);
/// Between looks for what nobody withdrew.
const PURGE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Arbiter {
    records: Records,
    /// The keys in flight, by when they are to be looked at.
    agenda: BTreeSet<(Time, Key)>,
    /// Hashes over what tellers have told, by slot.
    told: BTreeMap<(Teller, Slot), u64>,
    /// Keys that somebody of this district holds since lately, or nobody does any more.
    held: Vec<(Key, bool)>,
    /// Who does not lead in which group, until when.
    barred: BTreeMap<(NodeId, u64), Time>,
    purge_at: Option<Time>,
    learns_until: Time,
    epochs: u64,
}

impl Arbiter {
    pub fn announced(
        &mut self,
        now: Time,
        from: Teller,
        (forget, add, remove): (u64, &[Key], &[Key]),
        view: &impl View,
        out: &mut Outbox,
    ) {
        self.purge_at.get_or_insert(now.after(PURGE));
        self.forget(from, forget);
        for key in add {
            *self.told.entry((from, Slot::of(&key.0))).or_default() ^= fold(0, key);
            match from {
                Teller::Holder(node) => self.holds(now, node, *key, view, out),
                Teller::District(arbiter) => self.is_held_in(now, arbiter, *key, view, out),
            }
        }
        for key in remove {
            *self.told.entry((from, Slot::of(&key.0))).or_default() ^= fold(0, key);
            match from {
                Teller::Holder(node) => self.lacks(node, key),
                Teller::District(arbiter) => self.is_lost_in(arbiter, key),
            }
        }
    }

    fn holds(&mut self, now: Time, node: NodeId, key: Key, view: &impl View, out: &mut Outbox) {
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
            flight.put(now, node, State::Complete, asked.unwrap_or_default());
            self.settle(now, key, view, out);
        }
    }

    fn is_held_in(
        &mut self,
        now: Time,
        arbiter: NodeId,
        key: Key,
        view: &impl View,
        out: &mut Outbox,
    ) {
        if let Some(record) = self.records.entry(key) {
            let district = view.district(&arbiter);
            record
                .districts
                .retain(|other| view.district(other) != district);
            record.districts.push(arbiter);
            self.settle(now, key, view, out);
        }
    }

    fn is_lost_in(&mut self, arbiter: NodeId, key: &Key) {
        if let Some(record) = self.records.get_mut(key) {
            record.districts.retain(|other| *other != arbiter);
            self.records.tidy(key);
        }
    }

    /// The keys that somebody of this district holds since the last call (true), or nobody any more.
    pub fn take_held(&mut self) -> Vec<(Key, bool)> {
        std::mem::take(&mut self.held)
    }

    /// The keys of a slot that somebody of this district holds.
    pub fn held(&self, slot: Slot) -> Vec<Key> {
        self.records.held(slot).copied().collect()
    }

    /// The arbiter of a district where a key is held: another one than the asker's.
    pub fn district_of(&self, key: &Key, asker: &NodeId, view: &impl View) -> Option<NodeId> {
        let districts = self.records.get(key)?.districts.iter();
        let mut others = districts.filter(|arbiter| {
            **arbiter != view.me() && view.district(arbiter) != view.district(asker)
        });
        others.next().copied()
    }

    /// Compares hashes; returns the slots that differ, a bit each.
    pub fn renewed(&self, from: Teller, slots: u64, hashes: &[u64]) -> u64 {
        let told = Slot::all().filter(|slot| slots >> slot.index() & 1 == 1);
        let differs = told.zip(hashes).filter(|(slot, hash)| {
            self.told.get(&(from, *slot)).copied().unwrap_or_default() != **hash
        });
        differs.fold(0, |slots, (slot, _)| slots | 1 << slot.index())
    }

    /// Forgets what somebody has told of these slots, a bit each.
    fn forget(&mut self, teller: Teller, slots: u64) {
        for slot in Slot::all().filter(|slot| slots >> slot.index() & 1 == 1) {
            if self.told.remove(&(teller, slot)).is_some() {
                self.forget_where(slot, |other| *other == teller);
            }
        }
    }

    fn forget_where(&mut self, slot: Slot, is_over: impl Fn(&Teller) -> bool) {
        let lost = self.records.forget(slot, is_over);
        self.held.extend(lost.into_iter().map(|key| (key, false)));
    }

    fn lacks(&mut self, node: NodeId, key: &Key) {
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

    /// What is kept of slots that this node no longer owns (a bit each) goes; flights that still run end by themselves.
    pub fn disowned(&mut self, slots: u64) {
        for slot in Slot::all().filter(|slot| slots >> slot.index() & 1 == 1) {
            self.told.retain(|(_, told), _| *told != slot);
            self.forget_where(slot, |_| true);
        }
    }

    /// A member has left, or is dead.
    pub fn left(&mut self, now: Time, node: NodeId, view: &impl View, out: &mut Outbox) {
        self.forget(Teller::Holder(node), u64::MAX);
        self.forget(Teller::District(node), u64::MAX);
        for (_, key) in self.agenda.clone() {
            if let Some(flight) = self.flight(&key) {
                flight.waiting.remove(&node);
                if flight.remove(&node).is_some() {
                    self.settle(now, key, view, out);
                }
            }
        }
    }

    /// A message to a node could not be delivered: what it was granted, it perhaps does not know of.
    pub fn undelivered(&mut self, now: Time, to: NodeId, view: &impl View, out: &mut Outbox) {
        for (_, key) in self.agenda.clone() {
            if let Some(flight) = self.flight(&key) {
                flight.waiting.remove(&to);
                let is_unheard = |s: &Source| s.state.is_awaited() && !s.is_confirmed;
                if flight.get(&to).is_some_and(is_unheard) {
                    flight.remove(&to);
                    self.settle(now, key, view, out);
                }
            }
        }
    }

    /// Others may have been granted what this arbiter knows nothing of yet, but will be told.
    pub fn learn(&mut self, now: Time) {
        self.learns_until = now.after(LEARNING);
    }

    /// Who has it complete: at most [`MAX_FOUND`], others for each who asks.
    pub fn holders(&self, key: &Key, asker: NodeId) -> Vec<NodeId> {
        let Some(record) = self.records.get(key) else {
            return Vec::new();
        };
        let landed = record.flight.iter().flat_map(|flight| flight.sources());
        let landed = landed.filter(|source| source.state == State::Complete);
        let mut holders: Vec<_> = landed.map(|source| source.node).collect();
        holders.extend(&record.holders);
        holders.retain(|holder| *holder != asker);
        holders.sort_unstable_by_key(|holder| (place::lot(holder, asker.hash()), *holder));
        holders.dedup();
        holders.truncate(MAX_FOUND);
        holders
    }

    /// Whether this arbiter knows of anybody who has the key or is on the way to have it.
    pub fn knows(&self, key: &Key) -> bool {
        self.records.get(key).is_some_and(|record| {
            let flies = |flight: &Flight| flight.has_sources();
            !record.holders.is_empty()
                || !record.districts.is_empty()
                || record.flight.as_deref().is_some_and(flies)
        })
    }

    pub fn next_deadline(&self) -> Option<Time> {
        let due = self.agenda.first().map(|(due, _)| *due);
        due.into_iter().chain(self.purge_at).min()
    }

    pub fn tick(&mut self, now: Time, view: &impl View, out: &mut Outbox) {
        let due = self.agenda.first().map(|(due, _)| *due);
        if due.is_some_and(|due| now.since(due) > OVERSLEPT) {
            for (_, key) in self.agenda.clone() {
                if let Some(flight) = self.flight(&key) {
                    flight.spare(now);
                }
            }
        }
        while let Some((due, key)) = self.agenda.first().copied().filter(|(due, _)| *due <= now) {
            self.agenda.remove(&(due, key));
            self.look(now, key, view, out);
        }
        if self.purge_at.is_some_and(|at| at <= now) {
            self.purge_at = Some(now.after(PURGE));
            self.purge(now, view);
        }
    }

    /// Looks at one flight: who is silent, who can be answered, whether it is over.
    fn look(&mut self, now: Time, key: Key, view: &impl View, out: &mut Outbox) {
        let Some(record) = self.records.get_mut(&key) else {
            return;
        };
        let Record {
            holders,
            flight: Some(flight),
            ..
        } = record
        else {
            return;
        };
        if flight.lapse_at <= now {
            flight.lapse_at = now.after(QUIET_TICK / 2);
            flight.lapse(|source| {
                let limit = match source.state {
                    State::Sent | State::Granted | State::Begun => match source.is_confirmed {
                        false => NEW_LEAD_SILENCE,
                        true => LEAD_SILENCE,
                    },
                    State::Following | State::Fed => SOURCE_SILENCE,
                    State::Complete if holders.contains(&source.node) => return false,
                    State::Complete => LANDING,
                };
                now.since(source.heard) >= limit
            });
        }
        let runs = |s: &Source| s.state != State::Complete;
        let is_over = flight.waiting.is_empty()
            && now.since(flight.used) >= IDLE
            && !flight.sources().any(runs);
        if is_over {
            record.flight = None;
            self.records.tidy(&key);
            return;
        }
        flight.due = now.after(QUIET_TICK);
        self.agenda.insert((flight.due, key));
        self.settle(now, key, view, out);
    }

    fn schedule(&mut self, key: Key, at: Time) {
        if let Some(flight) = self.records.get_mut(&key).and_then(|r| r.flight.as_mut())
            && at < flight.due
        {
            self.agenda.remove(&(flight.due, key));
            flight.due = at;
            self.agenda.insert((at, key));
        }
    }

    /// Forgets what those have told who are no members, and what belongs to slots of others.
    fn purge(&mut self, now: Time, view: &impl View) {
        self.barred.retain(|_, until| *until > now);
        if !view.has_joined() {
            return;
        }
        let strangers = self.told.keys().map(|(teller, _)| *teller);
        let strangers = strangers.filter(|teller| !view.is_member(teller.node()));
        for teller in strangers.collect::<BTreeSet<_>>() {
            self.forget(teller, u64::MAX);
        }
        let me = view.me();
        let is_foreign =
            |slot: &Slot| !view.owners(*slot).contains(&me) && !view.roots(*slot).contains(&me);
        let foreign = Slot::all().filter(is_foreign);
        self.disowned(foreign.fold(0, |slots, slot| slots | 1 << slot.index()));
    }

    fn bar(&mut self, now: Time, node: NodeId, group: u64) {
        self.purge_at.get_or_insert(now.after(PURGE));
        if self.barred.len() < MAX_BARRED {
            self.barred.insert((node, group), now.after(BARRED));
        }
    }

    fn is_barred(&self, now: Time, node: NodeId, group: u64) -> bool {
        let until = self.barred.get(&(node, group));
        until.is_some_and(|until| *until > now)
    }

    fn flight(&mut self, key: &Key) -> Option<&mut Flight> {
        self.records.get_mut(key)?.flight.as_deref_mut()
    }

    /// The flight of a key, begun if there is none; `None` if there are too many.
    fn open(&mut self, now: Time, key: Key, view: &impl View) -> Option<&mut Flight> {
        let Self {
            records,
            epochs,
            agenda,
            ..
        } = self;
        let flies = records.get(&key).is_some_and(|r| r.flight.is_some());
        if !flies && agenda.len() >= MAX_FLIGHTS {
            return None;
        }
        let Record {
            holders, flight, ..
        } = records.entry(key)?;
        let flight = flight.get_or_insert_with(|| {
            *epochs = mix(*epochs ^ now.0 ^ key.hash());
            // Odd where another arbiter is above this one: see `Place`.
            let epoch = *epochs & !1 | u64::from(view.root(&key).is_some());
            let mut flight = Flight::new(now, epoch, &key, holders);
            flight.due = now.after(QUIET_TICK);
            agenda.insert((flight.due, key));
            Box::new(flight)
        });
        Some(flight)
    }

    /// Names epochs unlike those of other arbiters.
    pub fn seed(&mut self, me: NodeId, seed: u64) {
        self.epochs = mix(me.hash() ^ seed);
    }

    /// Nothing is left but what members hold.
    #[cfg(test)]
    pub fn check_is_quiet(&self, now: Time, view: &impl View) {
        assert!(self.agenda.is_empty(), "{:?}", self.agenda);
        assert!(self.barred.values().all(|until| *until > now));
        assert!(
            self.told
                .keys()
                .all(|(teller, _)| view.is_member(teller.node()))
        );
        self.records.check(|holder| view.is_member(holder));
    }
}
