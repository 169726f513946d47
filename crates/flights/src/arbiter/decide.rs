//! Answers to requests for a source: lead, follow, or wait.

use std::time::Duration;

use super::asker::ArbiterRole;
use super::flight::{Flight, State};
use super::tree::{self, TreeShape};
use super::waiting::{Awaited, Waiter};
use super::{Arbiter, BUSY_TICK};
use crate::outbox::{Context, Outbox};
use crate::pull_rules::SMALL_OBJECT;
use crate::requests::HEARTBEAT;
use crate::view::View;
use crate::wire::{Follow, Reply, SourceRequest, Wait, node_field};
use crate::{Key, NodeId, Time};

/// The most nodes that wait for one object.
const MAX_WAITING: usize = 16_384;
/// The most nodes that lead at once. A slow lead cannot be called back.
const MAX_LEADS: u32 = 3;
/// The lead is held this long for the preferred leader of an image, and for a node faster than the slow one that asks.
const PREFER_HOLD: Duration = Duration::from_millis(300);
/// The same for a node that begins at once and can wait. Its request must have an answer within 22 s.
const CAN_WAIT_HOLD: Duration = Duration::from_secs(15);
/// A node in leader cooldown leads only after this time, so that other nodes can ask first.
const COOLDOWN_HOLD: Duration = Duration::from_secs(1);
/// A node with slow sources only waits this long for another leader's first byte. Then a slow source is better than
/// none.
const SECOND_LEAD_WAIT: Duration = Duration::from_secs(1);
/// A leaf of a tree waits this long for an inner node to attach first.
const INNER_NODE_WAIT: Duration = Duration::from_millis(100);
/// A shard's requests for a large object are collected for this long before one of its nodes is sent to the global
/// arbiter.
const SHARD_GATHER: Duration = Duration::from_millis(30);
/// The same for a node that already leads or fetches another object.
const BUSY_GATHER: Duration = Duration::from_millis(150);
/// A fetcher follows others for a large object only after this time: it sends two copies of what it fetches, and should
/// be a leaf in all other flights.
const FETCHER_HOLD: Duration = Duration::from_secs(2);
/// A request at a node that is not the arbiter is redirected after this time.
const REDIRECT_AFTER: Duration = Duration::from_millis(600);

/// What to do with a request now.
#[derive(Clone, Debug)]
pub(super) enum NextStep {
    Answer(Reply),
    /// Ask another arbiter on behalf of the node.
    PassOn(NodeId),
    Wait,
}

impl Arbiter {
    /// Answers a waiter, passes its request on, or lets it wait.
    pub(super) fn try_answer(&mut self, waiter: Waiter, cx: &mut Context<'_, impl View>) {
        match self.decide(&waiter, cx) {
            NextStep::Answer(reply) => self.answer(&waiter, reply, cx.out),
            NextStep::PassOn(to) => {
                let waiter = self.pass_on(waiter, to, cx);
                self.wait(cx.now, waiter, cx.out);
            }
            NextStep::Wait => self.wait(cx.now, waiter, cx.out),
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
        let is_slow = self.slow_registries.contains(&waiter.request.registry);
        let Some(flight) = self.flight(&key) else {
            return;
        };
        if flight.waiting.len() >= MAX_WAITING {
            self.answer(&waiter, Reply::Alone(true), out);
            return;
        }
        let lead = (flight.awaited_lead(), is_slow || flight.granted() > 1);
        send_wait(now, &mut waiter, lead, out);
        flight.waiting.push(waiter);
        self.schedule(key, now.after(BUSY_TICK));
    }

    /// What to do with a waiter.
    fn decide(&mut self, waiter: &Waiter, cx: &Context<'_, impl View>) -> NextStep {
        let key = waiter.request.key();
        let role = ArbiterRole::of(&waiter.asker, &key, cx.view);
        if let ArbiterRole::NotArbiter(arbiter) = role {
            let is_long = cx.now.since(waiter.since) >= REDIRECT_AFTER;
            return match arbiter.filter(|_| is_long) {
                Some(arbiter) => NextStep::Answer(Reply::Redirect(node_field(Some(arbiter)))),
                None => NextStep::Wait,
            };
        }
        let ask_elsewhere = self.next_to_ask(role, waiter, cx);
        let source = self.records.flight(&key);
        let source = source.and_then(|flight| flight.get(&waiter.asker.node));
        let must_ask = waiter.passed_on.is_some()
            || role == ArbiterRole::Only
            || source.is_some_and(|source| source.state == State::LeadsForAll);
        match ask_elsewhere {
            Some(outcome) if must_ask => outcome,
            other => self.decide_here(waiter, (role, other), cx),
        }
    }

    /// What to do with a waiter, given what this arbiter knows. `ask_elsewhere`: if another arbiter may know more.
    fn decide_here(
        &mut self,
        waiter: &Waiter,
        (role, ask_elsewhere): (ArbiterRole, Option<NextStep>),
        cx: &Context<'_, impl View>,
    ) -> NextStep {
        let (request, node) = (&waiter.request, waiter.asker.node);
        let waited = cx.now.since(waiter.since);
        let is_of_shard = matches!(role, ArbiterRole::OfShard(_)) && ask_elsewhere.is_some();
        let (may_lead, is_lead_held) = self.may_lead(waiter, cx);
        // A second lead shows whether the registry is slow or the leader is.
        let is_slow = self.slow_registries.contains(&request.registry);
        let most_leads = if is_slow { 2 } else { MAX_LEADS };
        let Some(flight) = self.flight(&request.key()) else {
            return NextStep::Wait;
        };
        flight.fetcher.take_if(|fetcher| *fetcher == node);
        let shape = flight.shape(&request.key(), cx.view.shard_size());
        // No node below it may feed it, whatever was reported since its request.
        flight.detach(&node);
        let source = flight.best_source(&node, request);
        if may_lead
            && !is_of_shard
            && flight.allows_another_lead(most_leads)
            && let Some(outcome) = lead_beside_others(cx.now, flight, source, waiter)
        {
            return outcome;
        }
        let is_large = flight.size.is_none_or(|size| size > SMALL_OBJECT);
        if let Some(source) = source {
            // A node that a busy holder has sent elsewhere has waited already.
            let is_new = request.offset == 0 && request.busy_sources.is_empty();
            let is_leaf = request.is_fetcher && is_large && is_new;
            if is_leaf && waited < FETCHER_HOLD {
                return requeue_or_wait(cx.now, waiter);
            }
            let follow = attach_or_wait(cx.now, flight, (source, shape), waiter);
            return follow.map_or(NextStep::Wait, NextStep::Answer);
        }
        if role == ArbiterRole::OfOtherShard {
            return NextStep::Answer(Reply::Alone(true));
        }
        // The global arbiter holds the lead for it.
        let is_expected = is_of_shard && flight.preferred_leader == Some(node);
        if flight.is_awaited_by(request.is_slow) && !is_expected {
            return requeue_or_wait(cx.now, waiter);
        }
        let gather = if request.is_busy() {
            BUSY_GATHER
        } else {
            SHARD_GATHER
        };
        if is_of_shard && is_large && waited < gather && !is_expected {
            return NextStep::Wait;
        }
        if let Some(outcome) = ask_elsewhere {
            return outcome;
        }
        if is_lead_held {
            return requeue_or_wait(cx.now, waiter);
        }
        flight.lead(cx.now, node, lead_state(request), waiter.asked());
        flight.set_slow(&node, request.is_slow);
        NextStep::Answer(Reply::Lead(false))
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
        let can_wait = match request.leads_at_once {
            // Many leads at a time share the uplink, and a node receives few of them.
            true => request.can_wait && waited < CAN_WAIT_HOLD,
            // Its leads wait for its other downloads: nodes that led a part each would wait for each other.
            false => request.requeue_after_ms > 0,
        };
        let learns = !cx.view.has_joined() || self.is_learning(cx.now, &request.key());
        let is_held = learns
            || (has_better && (can_wait || waited < PREFER_HOLD))
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
        let (lead, has_two) = (flight.awaited_lead(), flight.granted() > 1);
        let is_late = flight.leader_is_late(cx.now);
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
            let role = ArbiterRole::of(&waiter.asker, &key, cx.view);
            let is_elsewhere =
                matches!(role, ArbiterRole::NotArbiter(_)) || waiter.passed_on.is_some();
            if can_answer || is_elsewhere || (is_late && waiter.request.lead_is_late) {
                self.try_answer(waiter, cx);
            } else if let Some(reply) = waiter.requeue_if_due(cx.now) {
                self.answer(&waiter, reply, cx.out);
            } else {
                let is_slow = self.slow_registries.contains(&waiter.request.registry);
                send_wait(cx.now, &mut waiter, (lead, is_slow || has_two), cx.out);
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

/// Requeues a request that may be retried, or lets it wait.
fn requeue_or_wait(now: Time, waiter: &Waiter) -> NextStep {
    let requeue = waiter.requeue_if_due(now);
    requeue.map_or(NextStep::Wait, NextStep::Answer)
}

/// Lets a node lead beside others, which cannot be called back: if these are slow, or one of them is late. `None`: the
/// node follows `source`, or waits.
fn lead_beside_others(
    now: Time,
    flight: &mut Flight,
    source: Option<NodeId>,
    waiter: &Waiter,
) -> Option<NextStep> {
    let request = &waiter.request;
    let is_too_slow = |source| flight.is_behind_slow_node(&source) && !request.is_slow;
    if !source.is_none_or(is_too_slow) {
        return None;
    }
    let is_late = source.is_none() && request.lead_is_late && flight.leader_is_late(now);
    if is_late || !flight.is_awaited_by(request.is_slow) {
        let node = waiter.asker.node;
        flight.lead(now, node, lead_state(request), waiter.asked());
        flight.set_second_lead(&node);
        return Some(NextStep::Answer(Reply::Lead(true)));
    }
    let waits = now.since(waiter.since) < SECOND_LEAD_WAIT;
    waits.then(|| requeue_or_wait(now, waiter))
}

/// Tells a waiter to wait, unless it was told the same within [`HEARTBEAT`]. `lead`: the leader that it waits for, and
/// whether upstream is slow.
fn send_wait(now: Time, waiter: &mut Waiter, lead: (Option<NodeId>, bool), out: &mut Outbox) {
    let (lead, is_upstream_slow) = lead;
    let awaited = Awaited {
        leader: waiter.waits_for(lead),
        is_upstream_slow,
    };
    let is_due = waiter
        .told_at
        .is_none_or(|told_at| now.since(told_at) >= HEARTBEAT);
    if is_due || waiter.told != awaited {
        waiter.told_at = Some(now);
        waiter.told = awaited;
        let (key, number) = (waiter.request.key(), waiter.request.number);
        let wait = Wait {
            leader: node_field(awaited.leader),
            fetches: waiter.passed_on.is_some(),
            is_upstream_slow: awaited.is_upstream_slow,
        };
        waiter.asker.answer(key, number, Reply::Wait(wait), out);
    }
}

/// Attaches a waiter to a source, or lets it wait for a better one.
fn attach_or_wait(
    now: Time,
    flight: &mut Flight,
    (source, shape): (NodeId, TreeShape),
    waiter: &Waiter,
) -> Option<Reply> {
    let (node, request) = (waiter.asker.node, &waiter.request);
    let is_leaf = shape.has_classes() && !shape.is_inner(&node);
    let depth = flight.get(&source)?.depth();
    let has_room = shape.has_room(&source, depth, flight.children(&source));
    let crowds = is_leaf && request.busy_sources.is_empty() && (depth == 0 || !has_room);
    if crowds && now.since(waiter.since) < INNER_NODE_WAIT {
        return None;
    }
    let order = flight.attach(now, node, source, waiter.asked());
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
