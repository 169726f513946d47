//! An owner's side: which nodes have an object, and, where the owner is the arbiter, which node leads and which node
//! follows which.

mod announcements;
mod announcers;
mod asker;
mod decide;
mod flight;
mod participations;
mod passing_on;
mod records;
mod reports;
mod requested;
mod tree;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ledger::LEADER_COOLDOWN;
use crate::outbox::Context;
use crate::random::mix;
use crate::slots::Slot;
use crate::view::View;
use crate::{Key, NodeId, Time};
use announcers::Announcers;
use flight::{Flight, Source, State};
use participations::all_parts;
use records::{Record, Records};

pub(crate) use asker::Asker;

/// The most holders named in the answer to a lookup.
const MAX_FOUND: usize = 8;
/// A leader that reports nothing for this long has lost its lead.
const LEAD_SILENCE: Duration = Duration::from_secs(2);
/// A leader that has never reported anything loses its lead after this time.
const NEW_LEAD_SILENCE: Duration = Duration::from_millis(1_200);
/// A follower that reports nothing for this long is forgotten. Followers report every 30 s.
const SOURCE_SILENCE: Duration = Duration::from_secs(90);
const MAX_COOLDOWNS: usize = 16_384;
/// A node that reported an object complete announces it within this time.
const ANNOUNCE_WAIT: Duration = Duration::from_secs(10);
/// A flight ends after this time without a message about it.
const IDLE: Duration = Duration::from_secs(30);
/// The interval between checks of a flight while nodes wait for an answer.
const BUSY_TICK: Duration = Duration::from_millis(50);
/// The interval between checks of a flight while no node waits for an answer.
const QUIET_TICK: Duration = Duration::from_secs(1);
/// A new arbiter grants no lead for this long: nodes first report the leads that exist.
const LEARNING: Duration = Duration::from_millis(600);
/// After a tick this late, the arbiter treats all nodes as just heard: their messages were delayed as well.
const LATE_TICK: Duration = Duration::from_secs(1);
/// The interval between sweeps for state that no node withdrew.
const PURGE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Arbiter {
    records: Records,
    /// The keys of all flights, by the time of their next check.
    check_queue: BTreeSet<(Time, Key)>,
    /// The flights in which each node takes part, or took part a moment ago.
    parts: BTreeSet<(NodeId, Key)>,
    /// The most flights of one node at the last search for room, and the time of that search.
    most_parts: Option<(usize, Time)>,
    /// What each node has announced.
    announced: Announcers,
    /// The number of announced keys not kept since the last `take_dropped`.
    dropped: u64,
    /// The nodes that may not lead in a repository, and until when.
    leader_cooldown: BTreeMap<(NodeId, u64), Time>,
    /// Chooses which holders of a key are kept, if there are too many.
    holder_seed: u64,
    purge_at: Option<Time>,
    /// The slots that this arbiter has taken over, and until when it grants no lead in them.
    learning_until: BTreeMap<Slot, Time>,
    epochs: u64,
    /// Registries that are slow now.
    pub slow_registries: BTreeSet<u64>,
}

impl Arbiter {
    /// Removes a member that has left or died from all flights.
    pub fn member_left(&mut self, node: NodeId, cx: &mut Context<'_, impl View>) {
        self.forget(node, u64::MAX);
        self.drop_from_flights(node, |_| true, cx);
    }

    /// Handles a message that could not be delivered: the node may not know of a lead that it was granted.
    pub fn undelivered(&mut self, to: NodeId, cx: &mut Context<'_, impl View>) {
        let is_unheard = |s: &Source| s.state == State::Granted && !s.is_confirmed;
        self.drop_from_flights(to, is_unheard, cx);
    }

    /// Removes a node from the waiting nodes of all flights, and as a source where `is_over` holds.
    fn drop_from_flights(
        &mut self,
        node: NodeId,
        is_over: impl Fn(&Source) -> bool,
        cx: &mut Context<'_, impl View>,
    ) {
        let parts = self.parts.range(all_parts(node));
        let parts: Vec<_> = parts.map(|(_, key)| *key).collect();
        for key in parts {
            let Some(flight) = self.flight(&key) else {
                continue;
            };
            for waiting in flight.waiting.asked_via(&node).into_iter().chain([node]) {
                if let Some(waiter) = flight.stop_waiting(&waiting) {
                    waiter.withdraw(cx.out);
                }
            }
            if flight.get(&node).is_some_and(&is_over) {
                flight.remove(&node);
                self.answer_waiting(key, cx);
            }
        }
    }

    /// Grants no lead in these slots (one bit each) for [`LEARNING`] from `since` on: nodes may hold leads that this
    /// arbiter does not know of yet.
    pub fn start_learning(&mut self, since: Time, slots: u64) {
        for slot in Slot::all().filter(|slot| slots >> slot.index() & 1 == 1) {
            let until = self.learning_until.entry(slot).or_default();
            *until = (*until).max(since.after(LEARNING));
        }
    }

    fn is_learning(&self, now: Time, key: &Key) -> bool {
        let until = self.learning_until.get(&Slot::of(&key.0));
        until.is_some_and(|until| now < *until)
    }

    /// Whether this arbiter knows a node that has the object or is receiving it.
    pub fn knows(&self, key: &Key) -> bool {
        self.records.get(key).is_some_and(|record| {
            let flies = |flight: &Flight| flight.has_sources();
            !record.holders.is_empty() || record.flight.as_deref().is_some_and(flies)
        })
    }

    pub fn next_deadline(&self) -> Option<Time> {
        let due = self.check_queue.first().map(|(due, _)| *due);
        due.into_iter().chain(self.purge_at).min()
    }

    pub fn tick(&mut self, cx: &mut Context<'_, impl View>) {
        let due = self.check_queue.first().map(|(due, _)| *due);
        if due.is_some_and(|due| cx.now.since(due) > LATE_TICK) {
            for (_, key) in self.check_queue.clone() {
                if let Some(flight) = self.flight(&key) {
                    flight.mark_all_heard(cx.now);
                }
            }
        }
        while let Some((due, key)) = self
            .check_queue
            .first()
            .copied()
            .filter(|(due, _)| *due <= cx.now)
        {
            self.check_queue.remove(&(due, key));
            self.check(key, cx);
        }
        if self.purge_at.is_some_and(|at| at <= cx.now) {
            self.purge_at = Some(cx.now.after(PURGE));
            self.purge(cx.now, cx.view);
        }
    }

    /// Checks one flight: which nodes are silent, which requests can be answered, whether the flight is over.
    fn check(&mut self, key: Key, cx: &mut Context<'_, impl View>) {
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
        if flight.lapse_at <= cx.now {
            flight.lapse_at = cx.now.after(QUIET_TICK / 2);
            flight.lapse(|source| {
                let limit = match source.state {
                    State::Granted | State::Begun | State::LeadsForAll => {
                        match source.is_confirmed {
                            false => NEW_LEAD_SILENCE,
                            true => LEAD_SILENCE,
                        }
                    }
                    State::Following | State::Fetching => SOURCE_SILENCE,
                    State::Complete if holders.contains(&source.node) => return false,
                    State::Complete => ANNOUNCE_WAIT,
                };
                cx.now.since(source.heard) >= limit
            });
        }
        let runs = |s: &Source| s.state != State::Complete;
        let is_over = flight.waiting.is_empty()
            && cx.now.since(flight.used) >= IDLE
            && !flight.sources().any(runs);
        if is_over {
            for source in flight.sources() {
                self.parts.remove(&(source.node, key));
            }
            record.flight = None;
            self.records.tidy(&key);
            return;
        }
        flight.due = cx.now.after(QUIET_TICK);
        self.check_queue.insert((flight.due, key));
        self.answer_waiting(key, cx);
    }

    fn schedule(&mut self, key: Key, at: Time) {
        if let Some(flight) = self.records.get_mut(&key).and_then(|r| r.flight.as_mut())
            && at < flight.due
        {
            self.check_queue.remove(&(flight.due, key));
            flight.due = at;
            self.check_queue.insert((at, key));
        }
    }

    /// Forgets announcements of nodes that are no longer members, and those in slots that this node does not own.
    fn purge(&mut self, now: Time, view: &impl View) {
        self.leader_cooldown.retain(|_, until| *until > now);
        let records = &self.records;
        let flies = |key: &Key| records.flight(key).is_some();
        self.parts.retain(|(_, key)| flies(key));
        if !view.has_joined() {
            return;
        }
        let departed = self.announced.nodes();
        let departed = departed.filter(|node| !view.is_member(node));
        for node in departed.collect::<BTreeSet<_>>() {
            self.forget(node, u64::MAX);
        }
        let not_owned = Slot::all().filter(|slot| !view.owns(*slot));
        self.disowned(not_owned.fold(0, |slots, slot| slots | 1 << slot.index()));
    }

    fn start_leader_cooldown(&mut self, now: Time, node: NodeId, repository: u64) {
        self.purge_at.get_or_insert(now.after(PURGE));
        if self.leader_cooldown.len() < MAX_COOLDOWNS {
            self.leader_cooldown
                .insert((node, repository), now.after(LEADER_COOLDOWN));
        }
    }

    fn in_leader_cooldown(&self, now: Time, node: NodeId, repository: u64) -> bool {
        let until = self.leader_cooldown.get(&(node, repository));
        until.is_some_and(|until| *until > now)
    }

    fn flight(&mut self, key: &Key) -> Option<&mut Flight> {
        self.records.get_mut(key)?.flight.as_deref_mut()
    }

    /// The number of announced keys not kept since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Seeds the epochs, so that they differ from those of other arbiters, and the choice of holders.
    pub fn seed(&mut self, me: NodeId, [epochs, holders]: [u64; 2]) {
        self.epochs = mix(me.hash() ^ epochs);
        self.holder_seed = holders;
    }

    /// Whether the first node has begun to lead, and the source of the second one.
    #[cfg(test)]
    pub fn lead_and_source(
        &self,
        key: &Key,
        [lead, follower]: [&NodeId; 2],
    ) -> (bool, Option<NodeId>) {
        let flight = self.records.flight(key);
        let source = |node| flight.and_then(|flight| flight.get(node));
        let leads = source(lead).is_some_and(|source| source.state == State::Begun);
        (leads, source(follower).and_then(|source| source.parent))
    }

    #[cfg(test)]
    pub fn check_is_quiet(&self, now: Time, view: &impl View) {
        assert!(self.check_queue.is_empty(), "{:?}", self.check_queue);
        assert!(self.parts.is_empty(), "{:?}", self.parts);
        assert!(self.leader_cooldown.values().all(|until| *until > now));
        assert!(self.announced.nodes().all(|node| view.is_member(&node)));
        self.announced.check(&self.records.check());
    }
}
