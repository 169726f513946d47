//! Answers to requests for a source: lead, follow, or wait.

use std::time::Duration;

use super::asker::Role;
use super::flight::{Asked, Flight, State};
use super::tree::{self, TreeShape};
use super::waiting::Waiter;
use super::{Arbiter, BUSY_TICK};
use crate::outbox::{Context, Outbox};
use crate::requests::HEARTBEAT;
use crate::view::View;
use crate::wire::{Follow, Reply, SourceRequest, Wait, node_field};
use crate::{Key, NodeId, Time};

/// The most nodes that wait for one object.
const MAX_WAITING: usize = 16_384;
/// The lead is held this long for the preferred leader of an image, and for a node faster than the slow one that asks.
const PREFER_HOLD: Duration = Duration::from_millis(300);
/// A node in leader cooldown leads only after this time, so that other nodes can ask first.
const COOLDOWN_HOLD: Duration = Duration::from_secs(1);
/// A node with slow sources only waits this long for another leader's first byte. Then a slow source is better than none.
const SECOND_LEAD_WAIT: Duration = Duration::from_secs(1);
/// A leaf of a tree waits this long for an inner node to attach first.
const INNER_NODE_WAIT: Duration = Duration::from_millis(100);
/// A shard's requests for a large object are collected for this long before one of its nodes is sent to the global
/// arbiter.
const SHARD_GATHER: Duration = Duration::from_millis(30);
/// The same for a node that leads or fetches another one already.
const BUSY_GATHER: Duration = Duration::from_millis(150);
/// A fetcher follows others for a large object only after this time: it sends two copies of what it fetches, and should
/// be a leaf in all other flights.
const FETCHER_HOLD: Duration = Duration::from_secs(2);
/// A request at a node that is not the arbiter is redirected after this time.
const REDIRECT_AFTER: Duration = Duration::from_millis(600);

/// What to do with a request now.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Answer(Reply),
    /// Ask another arbiter on behalf of the node.
    PassOn(NodeId),
    Wait,
}

impl Arbiter {
    /// Answers a waiter, passes its request on, or lets it wait.
    pub(super) fn try_answer(&mut self, waiter: Waiter, cx: &mut Context<'_, impl View>) {
        match self.decide(&waiter, cx) {
            Step::Answer(reply) => self.answer(&waiter, reply, cx.out),
            Step::PassOn(to) => {
                let waiter = self.pass_on(waiter, to, cx);
                self.wait(cx.now, waiter, cx.out);
            }
            Step::Wait => self.wait(cx.now, waiter, cx.out),
        }
    }

    /// Answers a waiter.
    pub(super) fn answer(&mut self, waiter: &Waiter, reply: Reply, out: &mut Outbox) {
        let (key, number) = (waiter.request.key(), waiter.request.request_number());
        if matches!(reply, Reply::Later(_))
            && let Some(flight) = self.flight(&key)
        {
            flight.end(waiter.asker.node, number, true);
        }
        waiter.asker.answer(key, number.random, reply, out);
    }

    fn wait(&mut self, now: Time, mut waiter: Waiter, out: &mut Outbox) {
        let key = waiter.request.key();
        let Some(flight) = self.flight(&key) else {
            return;
        };
        if flight.waiting.len() >= MAX_WAITING {
            self.answer(&waiter, Reply::Alone(true), out);
            return;
        }
        let lead = flight.awaited_lead();
        send_wait(now, &mut waiter, lead, out);
        flight.waiting.push(waiter);
        self.schedule(key, now.after(BUSY_TICK));
    }

    /// What to do with a waiter.
    fn decide(&mut self, waiter: &Waiter, cx: &Context<'_, impl View>) -> Step {
        let key = waiter.request.key();
        let role = Role::of(&waiter.asker, &key, cx.view);
        if let Role::NotArbiter(arbiter) = role {
            let is_long = cx.now.since(waiter.since) >= REDIRECT_AFTER;
            return match arbiter.filter(|_| is_long) {
                Some(arbiter) => Step::Answer(Reply::Redirect(node_field(Some(arbiter)))),
                None => Step::Wait,
            };
        }
        let other = self.next_to_ask(role, waiter, cx);
        let source = self.records.flight(&key);
        let source = source.and_then(|flight| flight.get(&waiter.asker.node));
        let must_ask = waiter.passed_on.is_some()
            || role == Role::Only
            || source.is_some_and(|source| source.state == State::LeadsForAll);
        match other {
            Some(step) if must_ask => step,
            other => self.decide_here(waiter, (role, other), cx),
        }
    }

    /// What to do with a waiter, given what this arbiter knows. `other`: the arbiter that it can ask.
    fn decide_here(
        &mut self,
        waiter: &Waiter,
        (role, other): (Role, Option<Step>),
        cx: &Context<'_, impl View>,
    ) -> Step {
        let (request, node) = (&waiter.request, waiter.asker.node);
        let waited = cx.now.since(waiter.since);
        let is_of_shard = matches!(role, Role::OfShard(_)) && other.is_some();
        let (may_lead, is_lead_held) = self.may_lead(waiter, cx);
        let requeue_or_wait = || {
            waiter
                .requeue_if_due(cx.now)
                .map_or(Step::Wait, Step::Answer)
        };
        let Some(flight) = self.flight(&request.key()) else {
            return Step::Wait;
        };
        flight.fetcher.take_if(|fetcher| *fetcher == node);
        let asked = waiter.asked();
        let shape = flight.shape(&request.key(), cx.view.shard_size());
        // No node below it may feed it, whatever was reported since it asked.
        flight.detach(&node);
        let source = flight.best_source(&node, request);
        let is_poor = |source| flight.is_behind_slow_node(&source) && !request.is_slow;
        let may_lead = may_lead && !is_of_shard;
        if source.is_none_or(is_poor) && may_lead && flight.allows_another_lead() {
            // The slow lead cannot be called back; the faster one wins.
            if !flight.is_awaited_by(request.is_slow) {
                flight.lead(cx.now, node, lead_state(request), asked);
                flight.set_second_lead(&node);
                return Step::Answer(Reply::Lead(true));
            }
            if waited < SECOND_LEAD_WAIT {
                return requeue_or_wait();
            }
        }
        let is_large = flight.size.is_none_or(|size| size > tree::SMALL_OBJECT);
        if let Some(source) = source {
            let is_leaf = request.is_fetcher && is_large && request.offset == 0;
            if is_leaf && waited < FETCHER_HOLD {
                return requeue_or_wait();
            }
            let follow = attach_or_wait(cx.now, flight, (source, shape), waiter, asked);
            return follow.map_or(Step::Wait, Step::Answer);
        }
        if role == Role::OfOtherShard {
            return Step::Answer(Reply::Alone(true));
        }
        // The global arbiter holds the lead for it.
        let is_expected = is_of_shard && flight.preferred_leader == Some(node);
        if flight.is_awaited_by(request.is_slow) && !is_expected {
            return requeue_or_wait();
        }
        let gather = if request.is_busy() {
            BUSY_GATHER
        } else {
            SHARD_GATHER
        };
        if is_of_shard && is_large && waited < gather && !is_expected {
            return Step::Wait;
        }
        if let Some(step) = other {
            return step;
        }
        if is_lead_held {
            return requeue_or_wait();
        }
        flight.lead(cx.now, node, lead_state(request), asked);
        flight.set_slow(&node, request.is_slow);
        Step::Answer(Reply::Lead(false))
    }

    /// Whether a node may lead beside another one, and whether the lead is held for others for now.
    fn may_lead(&self, waiter: &Waiter, cx: &Context<'_, impl View>) -> (bool, bool) {
        let (request, node) = (&waiter.request, waiter.asker.node);
        let waited = cx.now.since(waiter.since);
        let cools_down = |node| self.in_leader_cooldown(cx.now, node, request.repository);
        let in_cooldown = request.leader_cooldown || cools_down(node);
        let flight = self.records.flight(&request.key());
        let is_slow = |node: &NodeId| flight.and_then(|f| f.get(node)).is_some_and(|s| s.is_slow);
        let has_better = request.preferred_leader().is_some_and(|better| {
            better != node && cx.view.is_member(&better) && !cools_down(better) && !is_slow(&better)
        });
        let learns = !cx.view.has_joined() || cx.now < self.learning_until;
        let is_held = learns
            || (has_better && (request.requeue_after_ms > 0 || waited < PREFER_HOLD))
            || (request.is_slow && waited < PREFER_HOLD)
            || (in_cooldown && waited < COOLDOWN_HOLD);
        (!in_cooldown && !request.is_slow && !learns, is_held)
    }

    /// Tries to answer all waiting nodes: those that failed last, and those first that can pass the object on.
    pub(super) fn answer_waiting(&mut self, key: Key, cx: &mut Context<'_, impl View>) {
        let Some(flight) = self.flight(&key) else {
            return;
        };
        if flight.waiting.is_empty() {
            return;
        }
        let can_answer = !flight.is_awaited_by(false) || !flight.feeds_nobody();
        let lead = flight.awaited_lead();
        let shape = flight.shape(&key, cx.view.shard_size());
        let mut waiting = flight.waiting.take();
        if can_answer {
            let is_sharded = cx.view.shard_count() > 1;
            let preferred_leader = flight.preferred_leader;
            waiting.sort_by_cached_key(|waiter| {
                let SourceRequest {
                    leader_cooldown,
                    repository,
                    is_slow,
                    ..
                } = waiter.request;
                let in_leader_cooldown = leader_cooldown
                    || self.in_leader_cooldown(cx.now, waiter.asker.node, repository);
                (
                    in_leader_cooldown,
                    is_slow,
                    is_sharded && preferred_leader != Some(waiter.asker.node),
                    shape.has_classes() && !shape.is_inner(&waiter.asker.node),
                    is_sharded && waiter.request.is_busy(),
                    // The fetcher feeds more nodes than others do: a different one for each object.
                    is_sharded.then(|| tree::tie_break(&waiter.asker.node, key.hash())),
                )
            });
        }
        for mut waiter in waiting {
            let role = Role::of(&waiter.asker, &key, cx.view);
            let is_elsewhere = matches!(role, Role::NotArbiter(_)) || waiter.passed_on.is_some();
            if can_answer || is_elsewhere {
                self.try_answer(waiter, cx);
            } else if let Some(reply) = waiter.requeue_if_due(cx.now) {
                self.answer(&waiter, reply, cx.out);
            } else {
                send_wait(cx.now, &mut waiter, lead, cx.out);
                if let Some(flight) = self.flight(&key) {
                    flight.waiting.push(waiter);
                }
            }
        }
        if self
            .flight(&key)
            .is_some_and(|flight| !flight.waiting.is_empty())
        {
            self.schedule(key, cx.now.after(BUSY_TICK));
        }
    }
}

/// The state of a leader when it is granted the lead: it can feed others if it has bytes already.
pub(super) fn lead_state(request: &SourceRequest) -> State {
    if request.offset > 0 {
        State::Begun
    } else {
        State::Granted
    }
}

/// Tells a waiter to wait, unless it was told the same within [`HEARTBEAT`].
fn send_wait(now: Time, waiter: &mut Waiter, lead: Option<NodeId>, out: &mut Outbox) {
    let awaited = waiter.waits_for(lead);
    let is_due = waiter
        .announced
        .is_none_or(|announced| now.since(announced) >= HEARTBEAT);
    if is_due || waiter.awaited != awaited {
        waiter.announced = Some(now);
        waiter.awaited = awaited;
        let (key, number) = (waiter.request.key(), waiter.request.number);
        let (leader, asker) = (node_field(awaited), waiter.asker);
        let fetches = waiter.passed_on.is_some();
        let wait = Wait { leader, fetches };
        asker.answer(key, number, Reply::Wait(wait), out);
    }
}

/// Attaches a waiter to a source, or lets it wait for a better one.
fn attach_or_wait(
    now: Time,
    flight: &mut Flight,
    (source, shape): (NodeId, TreeShape),
    waiter: &Waiter,
    asked: Asked,
) -> Option<Reply> {
    let (node, request) = (waiter.asker.node, &waiter.request);
    let is_leaf = shape.has_classes() && !shape.is_inner(&node);
    let depth = flight.get(&source)?.depth();
    let has_room = shape.has_room(&source, depth, flight.children(&source));
    let crowds = is_leaf && (depth == 0 || !has_room);
    if crowds && now.since(waiter.since) < INNER_NODE_WAIT {
        return None;
    }
    let order = flight.attach(now, node, source, asked);
    flight.set_slow(&node, request.is_slow);
    Some(follow(flight, source, order))
}

pub(super) fn follow(flight: &Flight, source: NodeId, order: u32) -> Reply {
    Reply::Follow(Follow {
        source: node_field(Some(source)),
        epoch: flight.epoch,
        order,
        leader: node_field(flight.leader),
    })
}
