//! Requests that this arbiter passes on to another one, on behalf of the node that asks, and the answers.
//!
//! Among several shards, the arbiter of a shard without a source of an object asks the global arbiter for one node, the
//! *fetcher*. The global arbiter asks the arbiters of the other shards, one after the other, and decides which node
//! leads if no node has the object. A new arbiter of a cluster of one shard asks the previous one about keys that it
//! does not know yet. No other request is passed on twice.

use std::time::Duration;

use super::Arbiter;
use super::asker::{ArbiterRole, Asker};
use super::decide::{NextStep, lead_state};
use super::flight::{Flight, State};
use super::waiting::Waiter;
use crate::outbox::Context;
use crate::requests::AskedOwner;
use crate::slots::Slot;
use crate::view::View;
use crate::wire::{Follow, Message, Reply, node};
use crate::{ChainPosition, Key, NodeId, Time};

/// An arbiter that asks others decides itself after this long without a message from any of them.
const LIMIT: Duration = Duration::from_secs(1);

/// A request that this arbiter passes on.
#[derive(Clone, Debug)]
pub(super) struct PassedOn {
    /// The arbiter that is asked now.
    pub asked: AskedOwner,
    /// The arbiters that know no source.
    tried: Vec<NodeId>,
    /// When the request was passed on, or one of the asked arbiters was last heard from.
    since: Time,
    /// The leader that the asked arbiter waits for.
    pub leader: Option<NodeId>,
}

impl Arbiter {
    /// The next arbiter to ask on behalf of a waiter. `None`: this one decides.
    pub(super) fn next_to_ask(
        &self,
        role: ArbiterRole,
        waiter: &Waiter,
        cx: &Context<'_, impl View>,
    ) -> Option<NextStep> {
        let (key, passed_on) = (waiter.request.key(), waiter.passed_on.as_ref());
        if passed_on.is_some_and(|passed_on| cx.now.since(passed_on.since) >= LIMIT) {
            return None;
        }
        let (slot, me, via) = (Slot::of(&key.0), cx.view.me(), waiter.asker.via);
        let tried = passed_on.map_or(&[][..], |passed_on| &passed_on.tried);
        let is_open = |other: &NodeId| {
            *other != me
                && Some(*other) != via
                && !tried.contains(other)
                && cx.view.is_member(other)
        };
        let next = match role {
            ArbiterRole::OfShard(global) => Some(global).filter(is_open),
            ArbiterRole::Global => cx.view.arbiters_of_shards(slot).find(is_open),
            ArbiterRole::Only if via.is_none() && !self.knows(&key) => {
                cx.view.previous_arbiter(slot).filter(is_open)
            }
            ArbiterRole::Only | ArbiterRole::OfOtherShard | ArbiterRole::NotArbiter(_) => None,
        }?;
        let asked = passed_on.map(|passed_on| passed_on.asked);
        let waits = asked.filter(|asked| asked.owner == next);
        let is_due = |asked: AskedOwner| asked.repeat_at().is_some_and(|at| at <= cx.now);
        Some(match waits {
            Some(asked) if !is_due(asked) => NextStep::Wait,
            _ => NextStep::PassOn(next),
        })
    }

    /// Asks another arbiter on behalf of a waiter.
    pub(super) fn pass_on(
        &mut self,
        mut waiter: Waiter,
        to: NodeId,
        cx: &mut Context<'_, impl View>,
    ) -> Waiter {
        let asked = AskedOwner::new(cx.now, to);
        match &mut waiter.passed_on {
            Some(passed_on) if passed_on.asked.owner == to => passed_on.asked.repeat(),
            Some(passed_on) => passed_on.asked = asked,
            None => {
                waiter.passed_on = Some(PassedOn {
                    asked,
                    tried: Vec::new(),
                    since: cx.now,
                    leader: None,
                });
            }
        }
        // The node learns at once that it is the fetcher.
        waiter.told_at = None;
        let node = waiter.asker.node;
        if cx.view.shard_count() > 1
            && let Some(flight) = self.flight(&waiter.request.key())
            && flight.get(&node).map(|source| source.state) != Some(State::LeadsForAll)
        {
            flight.fetcher = Some(node);
        }
        let request = Message::SourceRequest(waiter.request.clone());
        cx.out.pass_on(to, node, request);
        waiter
    }

    /// Handles the answer of an arbiter that was asked on behalf of a node.
    pub fn answered(
        &mut self,
        Asker { node: asker, via }: Asker,
        (key, number): (Key, u64),
        reply: Reply,
        cx: &mut Context<'_, impl View>,
    ) {
        let Some(from) = via else {
            return;
        };
        let is_sharded = cx.view.shard_count() > 1;
        let Some(flight) = self.flight(&key) else {
            return;
        };
        let is_asked = |waiter: &&mut Waiter| {
            let passed_on = waiter.passed_on.as_ref();
            let is_asked = passed_on.is_some_and(|passed_on| passed_on.asked.owner == from);
            waiter.request.number == number && is_asked
        };
        let is_used = flight.get(&asker);
        let is_used = is_used.is_some_and(|source| source.asked.number.random == number);
        let Some(waiter) = flight.waiting.get_mut(&asker).filter(is_asked) else {
            if matches!(reply, Reply::Lead(_) | Reply::Follow(_)) && !is_used {
                // Otherwise others would wait for the node.
                cx.out.pass_on(from, asker, Message::withdraw(key, number));
            }
            return;
        };
        if let (Reply::Wait(wait), Some(passed_on)) = (&reply, &mut waiter.passed_on) {
            passed_on.asked.heard(cx.now);
            (passed_on.since, passed_on.leader) = (cx.now, node(&wait.leader));
            return self.answer_waiting(key, cx);
        }
        let is_of_shard = matches!(
            ArbiterRole::of(&waiter.asker, &key, cx.view),
            ArbiterRole::OfShard(_)
        );
        if is_of_shard && matches!(reply, Reply::Redirect(_)) {
            // Both will soon know the same global arbiter.
            return;
        }
        let Some(mut waiter) = flight.stop_waiting(&asker) else {
            return;
        };
        let asked = waiter.asked();
        let mut reply = reply;
        match &mut reply {
            // The next one is asked, or this arbiter decides.
            Reply::Alone(_) | Reply::Redirect(_) if !is_of_shard => {
                if let Some(passed_on) = &mut waiter.passed_on {
                    passed_on.tried.push(from);
                    passed_on.since = cx.now;
                }
                return self.try_answer(waiter, cx);
            }
            Reply::Follow(follow) => {
                attach_elsewhere(flight, cx.now, (&waiter, follow), is_sharded);
            }
            Reply::Lead(is_second) => {
                let state = if is_sharded {
                    State::LeadsForAll
                } else {
                    lead_state(&waiter.request)
                };
                flight.lead(cx.now, asker, state, asked);
                if *is_second {
                    flight.set_second_lead(&asker);
                }
            }
            _ => {}
        }
        self.answer(&waiter, reply, cx.out);
        self.answer_waiting(key, cx);
    }
}

/// Attaches a node to the source that another arbiter has named, and gives it its position here.
fn attach_elsewhere(
    flight: &mut Flight,
    now: Time,
    (waiter, follow): (&Waiter, &mut Follow),
    is_sharded: bool,
) {
    let (asker, asked) = (waiter.asker.node, waiter.asked());
    let (epoch, order) = (follow.epoch, follow.order);
    match node(&follow.source) {
        Some(source) if !is_sharded => {
            flight.attach(now, asker, source, asked);
        }
        _ => flight.put(now, asker, State::Fetching, asked),
    }
    flight.leader = node(&follow.leader).or(flight.leader);
    // A node that follows the fetcher of another shard comes after it in the flight of all shards.
    let own = flight.get(&asker).filter(|_| is_sharded);
    if let Some(own) = own.filter(|_| ChainPosition { epoch, order }.is_of_shard()) {
        (follow.epoch, follow.order) = (flight.epoch, own.order);
    }
    flight.set_slow(&asker, waiter.request.is_slow);
}
