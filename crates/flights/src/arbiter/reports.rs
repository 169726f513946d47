//! What nodes say about their pulls, unasked.

use super::Arbiter;
use super::flight::{Asked, State};
use super::waiting::Awaited;
use crate::outbox::Outbox;
use crate::view::View;
use crate::wire::{Message, Stage};
use crate::{Key, NodeId, Time};

impl Arbiter {
    /// A question is withdrawn, or what was answered is not made use of.
    pub fn withdrawn(
        &mut self,
        now: Time,
        from: NodeId,
        (key, number): (Key, u64),
        view: &impl View,
        out: &mut Outbox,
    ) {
        let Some(flight) = self.flight(&key) else {
            return;
        };
        flight.end(from, number);
        let waiter = flight.waiting.get(&from);
        if waiter.is_some_and(|waiter| waiter.seek.number == number) {
            flight.waiting.remove(&from);
        }
        let source = flight.get(&from);
        if source.is_some_and(|s| s.asked.number == number && s.state != State::Complete) {
            flight.remove(&from);
            self.settle(now, key, view, out);
        }
    }

    /// A pull goes on, or has ended.
    pub fn reported(
        &mut self,
        now: Time,
        from: NodeId,
        (key, number): (Key, u64),
        stage: Stage,
        view: &impl View,
        out: &mut Outbox,
    ) {
        let begins = matches!(stage, Stage::Alive { .. } | Stage::Done);
        if !begins && self.flight(&key).is_none() {
            return;
        }
        let Some(flight) = self.open(now, key, view) else {
            return;
        };
        let known = flight.get(&from).map(|source| (source.state, source.asked));
        let asked = known.map_or(Asked::default(), |(_, asked)| asked);
        if flight.is_stale(&from, number) {
            return;
        }
        let is_same = asked.number == number;
        let asked = Asked { number, ..asked };
        flight.used = now;
        match stage {
            Stage::Asks { lead, is_busy } => {
                if is_same {
                    flight.asks(now, &from, Awaited { lead, is_busy });
                }
                return;
            }
            Stage::Alive {
                size,
                source,
                is_busy,
                lags,
            } => {
                flight.size = flight.size.or(size);
                // Above the arbiter of the whole cluster is nothing that it would not hear of.
                let is_whole = view.root(&key).is_none();
                let is_known =
                    |source| is_whole || flight.get(&source).is_some() || view.is_near(&source);
                let state = match (size, source) {
                    (_, Some(source)) if !is_known(source) => State::Fed,
                    (_, Some(_)) => State::Following,
                    (Some(_), None) => State::Begun,
                    (None, None) => State::Granted,
                };
                let says_nothing_new = match known {
                    Some((State::Begun | State::Complete, _)) => is_same,
                    Some((State::Following | State::Fed, _)) => is_same && source.is_some(),
                    Some((State::Granted, _)) => is_same && state != State::Begun,
                    Some((State::Sent, _)) | None => false,
                };
                match source {
                    _ if says_nothing_new => {}
                    Some(source) if source == from => return,
                    Some(_) if state == State::Fed => flight.put(now, from, state, asked),
                    Some(source) => {
                        flight.attach(now, from, source, asked);
                    }
                    // It was sent upstream after all, or this arbiter is new.
                    None => flight.lead(now, from, state, asked),
                }
                flight.heard(now, &from, is_busy);
                if lags {
                    flight.slow(&from, true);
                }
                if says_nothing_new {
                    return;
                }
            }
            Stage::Done => flight.put(now, from, State::Complete, asked),
            Stage::Outrun { order, rate } => {
                if let Some(slow) = flight.outrun(&from, order) {
                    let rate = if slow == from { u64::MAX } else { rate };
                    out.send(slow, Message::Outrun { key, rate });
                }
                return;
            }
            Stage::Failed | Stage::Wrong => {
                if stage == Stage::Wrong {
                    flight.condemn(&from);
                }
                flight.end(from, number);
                let failed = flight.remove(&from);
                let led = failed.filter(|source| source.state.is_lead());
                if let Some(group) = led.and_then(|led| led.asked.group) {
                    self.bar(now, from, group);
                }
            }
        }
        self.settle(now, key, view, out);
    }
}
