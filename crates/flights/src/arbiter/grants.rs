//! Answers to those who ask what to do: lead, follow, or wait.

use std::time::Duration;

use super::flight::{Asked, Complaint, Flight, State};
use super::place::{self, Shape};
use super::waiting::{Awaited, Waiter};
use super::{Arbiter, BUSY_TICK};
use crate::outbox::Outbox;
use crate::seeks::HEARTBEAT;
use crate::view::View;
use crate::wire::{Message, Seek, Verdict};
use crate::{Key, NodeId, Time};

/// Nodes waiting for one key at most.
const MAX_WAITING: usize = 16_384;
/// Whoever should lead an image has so long to ask for the next of its objects, and whoever is faster to ask before a node
/// that is slow leads.
const PREFER_HOLD: Duration = Duration::from_millis(300);
/// Whoever failed has to let others ask first.
const BARRED_HOLD: Duration = Duration::from_secs(1);
/// Who gets far too little by way of whoever leads waits so long for another one to say so too, and for a second lead to
/// begin: then a slow source is better than none.
const SECOND_HOLD: Duration = Duration::from_secs(1);
/// A leaf of a tree waits so long for an inner node to come before it.
const GATHER: Duration = Duration::from_millis(100);
/// Who has many behind it waits so long for somebody else to get it for the district.
const RELIEF: Duration = Duration::from_millis(150);
/// So long a district's questions about a large object are gathered before one of its nodes asks for all of them.
const MUSTER: Duration = Duration::from_millis(30);
/// Who asked a node that is not the arbiter, and still is not after so long, is sent to who is.
const STRAY: Duration = Duration::from_millis(600);

/// What a question is to the flight that it is about.
enum Taken {
    /// Another copy of one that has its answer, or one that cannot wait for any.
    Answered(Verdict),
    /// Of the same node a later one has come before.
    Stale,
    Open(Box<Waiter>),
}

impl Arbiter {
    /// Answers a question, now or later.
    pub fn seek(
        &mut self,
        now: Time,
        asker: NodeId,
        seek: Seek,
        view: &impl View,
        out: &mut Outbox,
    ) {
        if let Some(waiter) = self.note(now, asker, seek, view, out) {
            self.try_answer(now, waiter, view, out);
        }
    }

    /// Keeps a question, without an answer for now: this node is not the arbiter yet.
    pub fn keep(
        &mut self,
        now: Time,
        asker: NodeId,
        seek: Seek,
        view: &impl View,
        out: &mut Outbox,
    ) {
        if let Some(waiter) = self.note(now, asker, seek, view, out) {
            self.wait(now, waiter, out);
        }
    }

    /// Notes a question, and repeats its answer if it has one. Returns who waits for an answer.
    fn note(
        &mut self,
        now: Time,
        asker: NodeId,
        seek: Seek,
        view: &impl View,
        out: &mut Outbox,
    ) -> Option<Waiter> {
        let (key, number) = (seek.key, seek.number);
        match self.take_seek(now, asker, seek, view) {
            Taken::Answered(verdict) => answer(out, asker, (key, number), verdict),
            Taken::Stale => {}
            Taken::Open(waiter) => return Some(*waiter),
        }
        None
    }

    /// Notes what a question says.
    fn take_seek(&mut self, now: Time, asker: NodeId, seek: Seek, view: &impl View) -> Taken {
        let Some(flight) = self.open(now, seek.key, view) else {
            return Taken::Answered(Verdict::Alone);
        };
        if flight.is_put_off(&asker, seek.number) {
            return Taken::Answered(Verdict::Later);
        }
        if flight.is_stale(&asker, seek.number) {
            return Taken::Stale;
        }
        let source = flight.get(&asker);
        let source = source.map(|source| (source.state, source.asked, source.parent, source.order));
        flight.used = now;
        flight.size = flight.size.or(seek.size);
        flight.streams = flight.streams.max(seek.streams);
        // Who lags leaves a source that is too good for it.
        let doubted = seek.failed.iter().chain(&seek.slow);
        let doubted = doubted.filter(|_| !seek.lags);
        doubted.for_each(|failed| flight.doubt(failed));
        match source {
            // The same question has the same answer, or else this arbiter would not know which of them is kept to.
            Some((State::Complete, asked, ..)) if asked.number == seek.number => {
                return Taken::Stale;
            }
            Some((State::Following, asked, Some(source), order)) if asked.number == seek.number => {
                return Taken::Answered(follow(now, flight, source, order));
            }
            // It has failed, and says so in a message that comes later.
            Some((State::Granted | State::Begun, asked, ..))
                if seek.barred && asked.number != seek.number =>
            {
                flight.remove(&asker);
            }
            Some((State::Granted | State::Begun, ..)) => {
                flight.ask_again(now, &asker, seek.number);
                return Taken::Answered(Verdict::Lead);
            }
            Some((State::Following, ..)) => flight.detach(&asker),
            // It has lost it, or has to ask elsewhere again.
            Some((State::Complete | State::Sent | State::Fed, ..)) => {
                flight.remove(&asker);
            }
            None => {}
        }
        let waiter = match flight.waiting.remove(&asker) {
            Some(waiter) if waiter.seek.number == seek.number => Waiter { seek, ..waiter },
            _ => Waiter::new(now, asker, seek),
        };
        Taken::Open(Box::new(waiter))
    }

    /// Answers a waiter, or lets it wait.
    fn try_answer(&mut self, now: Time, waiter: Waiter, view: &impl View, out: &mut Outbox) {
        let name = (waiter.seek.key, waiter.seek.number);
        match self.decide(now, &waiter, view) {
            Some(verdict) => {
                if verdict == Verdict::Later
                    && let Some(flight) = self.flight(&name.0)
                {
                    flight.put_off(&waiter);
                }
                answer(out, waiter.node, name, verdict);
            }
            None if !waiter.seek.patient => answer(out, waiter.node, name, Verdict::Alone),
            None => self.wait(now, waiter, out),
        }
    }

    fn wait(&mut self, now: Time, mut waiter: Waiter, out: &mut Outbox) {
        let key = waiter.seek.key;
        let Some(flight) = self.flight(&key) else {
            return;
        };
        if flight.waiting.len() >= MAX_WAITING {
            let name = (key, waiter.seek.number);
            answer(out, waiter.node, name, Verdict::Alone);
            return;
        }
        let lead = flight.awaited_lead(now);
        tell(now, &mut waiter, lead, out);
        flight.waiting.push(waiter);
        self.schedule(key, now.after(BUSY_TICK));
    }

    /// What a waiter is to do; `None`: wait.
    fn decide(&mut self, now: Time, waiter: &Waiter, view: &impl View) -> Option<Verdict> {
        let seek = &waiter.seek;
        let is_barred = seek.barred || self.is_barred(now, waiter.node, seek.group);
        let has_better = seek.prefer.is_some_and(|prefer| {
            prefer != waiter.node
                && view.is_member(&prefer)
                && !self.is_barred(now, prefer, seek.group)
        });
        let learns = !view.has_joined() || now < self.learns_until;
        // In one district among several it is for another arbiter to say who leads.
        let grants = view.root(&seek.key).is_none();
        let elsewhere = self.elsewhere(&seek.key, &waiter.node, view);
        let flight = self.flight(&seek.key)?;
        let waited = now.since(waiter.since);
        let asked = Asked {
            number: seek.number,
            group: Some(seek.group),
        };
        let shape = flight.shape(&seek.key, view.nearby());
        let may_lead = grants && !is_barred && !seek.lags && !learns;
        if let Some(slow) = seek.slow_lead.filter(|_| may_lead) {
            match flight.complain(now, slow, waiter.node, asked) {
                Complaint::Leads => return Some(Verdict::Lead),
                Complaint::Alone if waits_for_second(now, waiter) => return waiter.later(now),
                Complaint::Alone | Complaint::Unfounded => {}
            }
        }
        // Whatever was said of it since it asked: nobody below it is to feed it.
        flight.detach(&waiter.node);
        // Whoever leads often leads all of an image. It feeds one other node for each object, as everybody does: the
        // first of the heads of the districts. Its own district has another head.
        let may_go_on = elsewhere.is_some() && seek.patient && seek.failed.is_empty();
        let source = flight.choose(&waiter.node, seek);
        if let Some(source) = source.filter(|s| !may_go_on || !flight.leads_for_all(s)) {
            return feed(now, flight, (source, shape), waiter, asked);
        }
        if flight.awaited().is_some() {
            return waiter.later(now);
        }
        if let Some(elsewhere) = elsewhere {
            let is_large = flight.size.is_none_or(|size| size > place::SMALL);
            let members = u32::try_from(view.nearby()).unwrap_or(u32::MAX);
            let patience = if seek.behind > members / 4 {
                RELIEF
            } else {
                MUSTER
            };
            if is_large && !grants && waited < patience && seek.patient {
                return None;
            }
            // One asks for all of this district.
            flight.put(now, waiter.node, State::Sent, asked);
            return Some(Verdict::Redirect(elsewhere));
        }
        if !grants {
            // It was sent here for what is here no more.
            return Some(Verdict::Alone);
        }
        let holds = learns
            || (has_better && (seek.yields > 0 || waited < PREFER_HOLD))
            || (seek.lags && waited < PREFER_HOLD)
            || (is_barred && waited < BARRED_HOLD);
        if holds && seek.patient {
            return waiter.later(now);
        }
        if is_barred && !seek.patient {
            // It need not lead to go upstream, and others would wait for it.
            return Some(Verdict::Alone);
        }
        let has_bytes = seek.offset > 0;
        let state = if has_bytes {
            State::Begun
        } else {
            State::Granted
        };
        flight.lead(now, waiter.node, state, asked);
        Some(Verdict::Lead)
    }

    /// Whom to send an asker to for a key that nobody here has: the arbiter of the whole cluster, if that is another node,
    /// or else that of a district where it is held. `None` for an asker of another district, who comes from there.
    fn elsewhere(&self, key: &Key, asker: &NodeId, view: &impl View) -> Option<NodeId> {
        match view.root(key) {
            None => self.district_of(key, asker, view),
            Some(root) => view.is_near(asker).then_some(root),
        }
    }

    /// Tries all who wait: those who failed last, and those first who can pass it on.
    pub(super) fn settle(&mut self, now: Time, key: Key, view: &impl View, out: &mut Outbox) {
        let Some(flight) = self.flight(&key) else {
            return;
        };
        if flight.waiting.is_empty() {
            return;
        }
        let arbiter = view.arbiter(&key);
        let is_arbiter = arbiter == Some(view.me());
        if is_arbiter && (flight.awaited().is_none() || !flight.feeds_nobody()) {
            let shape = flight.shape(&key, view.nearby());
            let is_sent = view.root(&key).is_some();
            let mut waiting = flight.waiting.take();
            waiting.sort_by_cached_key(|waiter| {
                let Seek { barred, group, .. } = waiter.seek;
                let is_barred = barred || self.is_barred(now, waiter.node, group);
                (
                    is_barred,
                    waiter.seek.lags,
                    // Whole districts wait for those who ask for them.
                    view.is_near(&waiter.node),
                    shape.has_classes() && !shape.is_inner(&waiter.node),
                    is_sent.then_some(waiter.seek.behind),
                    // Who asks for its district feeds more than others: for each object another one.
                    is_sent.then(|| place::lot(&waiter.node, key.hash())),
                )
            });
            for waiter in waiting {
                self.try_answer(now, waiter, view, out);
            }
            return;
        }
        if is_arbiter {
            let lead = flight.awaited_lead(now);
            for waiter in flight.waiting.take() {
                match waiter.later(now) {
                    Some(verdict) => {
                        flight.put_off(&waiter);
                        answer(out, waiter.node, (key, waiter.seek.number), verdict);
                    }
                    None => flight.waiting.push(waiter),
                }
            }
            let waiting = flight.waiting.iter_mut();
            waiting.for_each(|waiter| tell(now, waiter, lead, out));
        } else if let Some(arbiter) = arbiter {
            for waiter in flight.waiting.take() {
                if now.since(waiter.since) >= STRAY {
                    let name = (key, waiter.seek.number);
                    answer(out, waiter.node, name, Verdict::Redirect(arbiter));
                } else {
                    flight.waiting.push(waiter);
                }
            }
        }
        if !flight.waiting.is_empty() {
            self.schedule(key, now.after(BUSY_TICK));
        }
    }
}

/// Tells a waiter to wait, if it has not heard that for a while, or something else.
fn tell(now: Time, waiter: &mut Waiter, lead: Awaited, out: &mut Outbox) {
    let awaited = waiter.waits_for(lead);
    let is_due = waiter.told.is_none_or(|told| now.since(told) >= HEARTBEAT);
    if is_due || waiter.awaited != awaited {
        waiter.told = Some(now);
        waiter.awaited = awaited;
        let name = (waiter.seek.key, waiter.seek.number);
        let Awaited { lead, is_busy } = awaited;
        answer(out, waiter.node, name, Verdict::Wait { lead, is_busy });
    }
}

/// Whether something faster than what there is is worth waiting for, to one who gets far too little.
fn waits_for_second(now: Time, waiter: &Waiter) -> bool {
    let seek = &waiter.seek;
    seek.slow_lead.is_some() && seek.patient && now.since(waiter.since) < SECOND_HOLD
}

/// Has a waiter fed by a source, or lets it wait for something better.
fn feed(
    now: Time,
    flight: &mut Flight,
    (source, shape): (NodeId, Shape),
    waiter: &Waiter,
    asked: Asked,
) -> Option<Verdict> {
    let (node, seek) = (waiter.node, &waiter.seek);
    let is_second_near = flight.awaited().is_some() && flight.is_held_up(&source);
    if is_second_near && waits_for_second(now, waiter) {
        return waiter.later(now);
    }
    let is_leaf = shape.has_classes() && !shape.is_inner(&node);
    let depth = flight.get(&source)?.depth;
    let has_room = shape.has_room(&source, depth, flight.children(&source));
    let crowds = is_leaf && (depth == 0 || !has_room);
    if crowds && now.since(waiter.since) < GATHER && seek.patient {
        return None;
    }
    let order = flight.attach(now, node, source, asked);
    flight.slow(&node, seek.lags);
    Some(follow(now, flight, source, order))
}

fn follow(now: Time, flight: &Flight, source: NodeId, order: u32) -> Verdict {
    let led_for = flight.led_for(now, &source).map(|led| led.as_millis());
    Verdict::Follow {
        source,
        epoch: flight.epoch,
        order,
        leader: flight.leader,
        led_for: led_for.map(|millis| u32::try_from(millis).unwrap_or(u32::MAX)),
    }
}

fn answer(out: &mut Outbox, to: NodeId, (key, number): (Key, u64), verdict: Verdict) {
    out.send(
        to,
        Message::Answer {
            key,
            number,
            verdict,
        },
    );
}
