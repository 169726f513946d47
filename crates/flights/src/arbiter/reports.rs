//! Handles what nodes report about their pulls.

use super::Arbiter;
use super::asker::{ArbiterRole, Asker};
use super::flight::{Asked, Flight, Source, State};
use super::waiting::Waiter;
use crate::outbox::Context;
use crate::view::View;
use crate::wire::{self, Alive, Message, PullState, Report, RequestNumber};
use crate::{Key, NodeId};

impl Arbiter {
    /// Handles a request that was withdrawn, or whose answer is not used.
    pub fn withdrawn(
        &mut self,
        from: Asker,
        (key, number): (Key, u64),
        cx: &mut Context<'_, impl View>,
    ) {
        let above = arbiter_above(&from, &key, cx.view);
        let Some(flight) = self.flight(&key) else {
            return;
        };
        let node = from.node;
        let is_told = is_told_above(flight, &node);
        let is_it = |asked: &Asked| {
            asked.number.random == number && from.may_change(asked.via, &key, cx.view)
        };
        let waiter = flight.waiting.get(&node).map(Waiter::asked).filter(is_it);
        let source = flight.get(&node).map(|source| source.asked).filter(is_it);
        let unknown = RequestNumber {
            random: number,
            sequence: 0,
        };
        let known = waiter.or(source).map(|asked| asked.number);
        if let Some(ended) = known.or(from.via.is_none().then_some(unknown)) {
            flight.end(node, ended, false);
        }
        if waiter.is_some()
            && let Some(waiter) = flight.stop_waiting(&node)
        {
            waiter.withdraw(cx.out);
        }
        let is_complete = |source: &Source| source.state == State::Complete;
        if source.is_some() && !flight.get(&node).is_some_and(is_complete) {
            flight.remove(&node);
            if let Some(above) = above.filter(|_| is_told) {
                cx.out.pass_on(above, node, Message::withdraw(key, number));
            }
            self.answer_waiting(key, cx);
        }
    }

    /// Handles the state of a pull. The global arbiter hears of those that concern all shards.
    pub fn reported(&mut self, from: Asker, report: &Report, cx: &mut Context<'_, impl View>) {
        let key = wire::key(&report.key);
        let above = arbiter_above(&from, &key, cx.view);
        let is_told = |arbiter: &mut Self| {
            let flight = arbiter.flight(&key);
            above.filter(|_| flight.is_some_and(|flight| is_told_above(flight, &from.node)))
        };
        let before = is_told(self);
        let is_news = self.note_report(&from, above.is_some(), report, cx);
        if let Some(above) = before.or_else(|| is_told(self)) {
            cx.out
                .pass_on(above, from.node, Message::Report(report.clone()));
        }
        if is_news {
            self.answer_waiting(key, cx);
        }
    }

    /// Records the state of a pull. Returns whether nodes may have to be answered.
    fn note_report(
        &mut self,
        from: &Asker,
        is_of_shard: bool,
        report: &Report,
        cx: &mut Context<'_, impl View>,
    ) -> bool {
        let (key, asker, from) = (wire::key(&report.key), *from, from.node);
        let number = RequestNumber {
            random: report.number,
            sequence: report.sequence,
        };
        let Some(stage) = &report.state else {
            return false;
        };
        let begins = matches!(stage, PullState::Alive(_) | PullState::Done(_));
        if !begins && self.flight(&key).is_none() {
            return false;
        }
        let Some(flight) = self.open(cx.now, key, [from], cx.view) else {
            return false;
        };
        let asked = flight.get(&from).map(|source| source.asked);
        let asked = asked.unwrap_or_default();
        if flight.is_stale(&from, number) || !asker.may_change(asked.via, &key, cx.view) {
            return false;
        }
        let is_same = asked.number == number;
        let asked = Asked {
            number,
            via: asker.via,
            ..asked
        };
        flight.used = cx.now;
        match stage {
            PullState::Alive(alive) => {
                return note_alive(flight, from, (alive, asked, is_same), is_of_shard, cx);
            }
            PullState::Done(_) => flight.put(cx.now, from, State::Complete, asked),
            PullState::Failed(_) | PullState::WrongDigest(_) => {
                if matches!(stage, PullState::WrongDigest(_)) && is_same {
                    flight.mark_wrong(&from);
                }
                flight.end(from, number, false);
                let failed = flight.remove(&from);
                let led = failed.filter(|source| source.state.is_lead());
                if let Some(repository) = led.and_then(|led| led.asked.repository) {
                    self.start_leader_cooldown(cx.now, from, repository);
                }
            }
        }
        true
    }
}

/// Records a pull in progress. `is_same`: it results from the request that is known of the node. Returns whether nodes
/// may have to be answered.
fn note_alive(
    flight: &mut Flight,
    from: NodeId,
    (alive, asked, is_same): (&Alive, Asked, bool),
    is_of_shard: bool,
    cx: &Context<'_, impl View>,
) -> bool {
    let (size, source) = (alive.size, wire::node(&alive.source));
    flight.size = flight.size.or(size);
    let is_outside = |source| {
        let shards = [source, from].map(|node| cx.view.shard_of(&node));
        is_of_shard && shards[0] != shards[1] && flight.get(&source).is_none()
    };
    let known = flight.get(&from).map(|source| source.state);
    let state = match (size, source) {
        (_, Some(source)) if is_outside(source) => State::Fetching,
        (_, Some(_)) => State::Following,
        // It was granted the lead elsewhere, or went upstream after all.
        (_, None) if is_of_shard && !known.is_some_and(State::is_lead) => State::LeadsForAll,
        (Some(_), None) => State::Begun,
        (None, None) => State::Granted,
    };
    let says_nothing_new = is_same
        && match known {
            Some(State::Begun | State::Complete) => true,
            Some(State::Following | State::Fetching) => source.is_some(),
            Some(State::Granted) => state != State::Begun,
            Some(State::LeadsForAll) => state == State::LeadsForAll,
            None => false,
        };
    match source {
        _ if says_nothing_new => {}
        Some(source) if source == from => return false,
        Some(source) if state == State::Following => {
            flight.attach(cx.now, from, source, asked);
        }
        Some(_) => flight.put(cx.now, from, state, asked),
        // It went upstream after all, or this arbiter is new.
        None => flight.lead(cx.now, from, state, asked),
    }
    flight.heard(cx.now, &from);
    let is_slow_now = alive.is_slow && flight.set_slow(&from, true);
    !says_nothing_new || is_slow_now
}

/// The global arbiter, if this arbiter is that of the node's shard only.
fn arbiter_above(from: &Asker, key: &Key, view: &impl View) -> Option<NodeId> {
    match ArbiterRole::of(from, key, view) {
        ArbiterRole::OfShard(global) => Some(global),
        _ => None,
    }
}

/// Whether the global arbiter is told of a pull.
fn is_told_above(flight: &Flight, node: &NodeId) -> bool {
    let source = flight.get(node);
    source.is_some_and(|source| source.state.is_told_above())
}
