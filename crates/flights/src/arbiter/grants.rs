//! Answers to requests for a source: lead, follow, or wait.

use std::time::Duration;

use super::flight::{Asked, Flight, State};
use super::tree::{self, TreeShape};
use super::waiting::Waiter;
use super::{Arbiter, BUSY_TICK};
use crate::outbox::{Context, Outbox};
use crate::requests::HEARTBEAT;
use crate::view::View;
use crate::wire::{Follow, Message, Reply, SourceRequest, Wait, node_field};
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
/// A node with many nodes downstream waits this long for another node to fetch the object for the shard.
const BUSY_FETCHER_WAIT: Duration = Duration::from_millis(150);
/// A shard's requests for a large object are collected for this long before one of its nodes is sent to the global
/// arbiter.
const SHARD_GATHER: Duration = Duration::from_millis(30);
/// A request at a node that is not the arbiter is redirected after this time.
const REDIRECT_AFTER: Duration = Duration::from_millis(600);

/// What a request means for its flight.
enum Taken {
    /// A copy of a request that has its answer, or a request that cannot wait.
    Answered(Reply),
    /// The node has sent a later request.
    Stale,
    Open(Box<Waiter>),
}

impl Arbiter {
    /// Answers a request, now or later.
    pub fn source_requested(
        &mut self,
        asker: NodeId,
        request: SourceRequest,
        cx: &mut Context<'_, impl View>,
    ) {
        if let Some(waiter) = self.note(asker, request, cx) {
            self.try_answer(waiter, cx);
        }
    }

    /// Keeps a request without an answer: this node is not the arbiter yet.
    pub fn keep(&mut self, asker: NodeId, request: SourceRequest, cx: &mut Context<'_, impl View>) {
        if let Some(waiter) = self.note(asker, request, cx) {
            self.wait(cx.now, waiter, cx.out);
        }
    }

    /// Notes a request, and repeats its answer if it has one. Returns the waiter if it needs an answer.
    fn note(
        &mut self,
        asker: NodeId,
        request: SourceRequest,
        cx: &mut Context<'_, impl View>,
    ) -> Option<Waiter> {
        let (key, number) = (request.key(), request.number);
        match self.note_request(cx.now, asker, request, cx.view) {
            Taken::Answered(reply) => answer(cx.out, asker, (key, number), reply),
            Taken::Stale => {}
            Taken::Open(waiter) => return Some(*waiter),
        }
        None
    }

    /// Notes what a request says about its flight.
    fn note_request(
        &mut self,
        now: Time,
        asker: NodeId,
        request: SourceRequest,
        view: &impl View,
    ) -> Taken {
        let Some(flight) = self.open(now, request.key(), view) else {
            return Taken::Answered(Reply::Alone(true));
        };
        if flight.is_answered_later(&asker, request.number) {
            return Taken::Answered(Reply::Later(true));
        }
        if flight.is_stale(&asker, request.number) {
            return Taken::Stale;
        }
        let source = flight.get(&asker);
        let source = source.map(|source| (source.state, source.asked, source.parent, source.order));
        flight.used = now;
        flight.size = flight.size.or(request.size);
        flight.concurrent_objects = flight.concurrent_objects.max(request.concurrent_objects);
        // A slow node leaves a source that is too fast for it; that is not the source's fault.
        if !request.is_slow {
            let failed = request.failed_sources();
            failed.for_each(|failed| flight.mark_doubtful(&failed));
            let slow = request.slow_source();
            slow.map(|slow| flight.set_slow(&slow, true));
        }
        match source {
            // The same request gets the same answer: otherwise the arbiter would not know which one the node acts on.
            Some((State::Complete, asked, ..)) if asked.number == request.number => {
                return Taken::Stale;
            }
            Some((State::Following, asked, Some(source), order))
                if asked.number == request.number =>
            {
                return Taken::Answered(follow(flight, source, order));
            }
            // Its download has failed, and its report is still on the way; or it ended early, and need not go on
            // upstream.
            Some((State::Granted | State::Begun, asked, ..))
                if asked.number != request.number
                    && (request.leader_cooldown || flight.has_holder_for(&asker, &request)) =>
            {
                flight.remove(&asker);
            }
            Some((State::Granted | State::Begun, ..)) => {
                let is_second = flight.ask_again(now, &asker, request.number);
                return Taken::Answered(Reply::Lead(is_second));
            }
            Some((State::Following, ..)) => flight.detach(&asker),
            // It has lost the object, or must ask elsewhere again.
            Some((State::Complete | State::AskingElsewhere | State::FollowingElsewhere, ..)) => {
                flight.remove(&asker);
            }
            None => {}
        }
        let waiter = match flight.waiting.remove(&asker) {
            Some(waiter) if waiter.request.number == request.number => Waiter { request, ..waiter },
            _ => Waiter::new(now, asker, request),
        };
        Taken::Open(Box::new(waiter))
    }

    /// Answers a waiter, or lets it wait.
    fn try_answer(&mut self, waiter: Waiter, cx: &mut Context<'_, impl View>) {
        let name = (waiter.request.key(), waiter.request.number);
        match self.decide(cx.now, &waiter, cx.view) {
            Some(reply) => {
                if matches!(reply, Reply::Later(_))
                    && let Some(flight) = self.flight(&name.0)
                {
                    flight.answer_later(&waiter);
                }
                answer(cx.out, waiter.node, name, reply);
            }
            None => self.wait(cx.now, waiter, cx.out),
        }
    }

    fn wait(&mut self, now: Time, mut waiter: Waiter, out: &mut Outbox) {
        let key = waiter.request.key();
        let Some(flight) = self.flight(&key) else {
            return;
        };
        if flight.waiting.len() >= MAX_WAITING {
            let name = (key, waiter.request.number);
            answer(out, waiter.node, name, Reply::Alone(true));
            return;
        }
        let lead = flight.awaited_lead(now);
        send_wait(now, &mut waiter, lead, out);
        flight.waiting.push(waiter);
        self.schedule(key, now.after(BUSY_TICK));
    }

    /// What a waiter should do. `None`: wait.
    fn decide(&mut self, now: Time, waiter: &Waiter, view: &impl View) -> Option<Reply> {
        let request = &waiter.request;
        let in_leader_cooldown = request.leader_cooldown
            || self.in_leader_cooldown(now, waiter.node, request.repository);
        let has_better = request.preferred_leader().is_some_and(|preferred_leader| {
            preferred_leader != waiter.node
                && view.is_member(&preferred_leader)
                && !self.in_leader_cooldown(now, preferred_leader, request.repository)
        });
        let learns = !view.has_joined() || now < self.learning_until;
        // In a sharded cluster the global arbiter decides who leads.
        let grants = view.global_arbiter(&request.key()).is_none();
        let elsewhere = self.elsewhere(&request.key(), &waiter.node, view);
        let flight = self.flight(&request.key())?;
        let is_slow = |node: NodeId| flight.get(&node).is_some_and(|source| source.is_slow);
        let has_better = has_better && !request.preferred_leader().is_some_and(is_slow);
        let waited = now.since(waiter.since);
        let asked = Asked {
            number: request.number,
            repository: Some(request.repository),
        };
        let shape = flight.shape(&request.key(), view.shard_size());
        let may_lead = grants && !in_leader_cooldown && !request.is_slow && !learns;
        // No node below it may feed it, whatever was reported since it asked.
        flight.detach(&waiter.node);
        // A leader often leads all objects of an image. It should feed one node for each object, like every other node:
        // the first node that fetches for a shard. Its own shard gets another fetcher.
        let may_go_on = elsewhere.is_some() && request.failed_sources.is_empty();
        let source = flight.best_source(&waiter.node, request);
        let source = source.filter(|s| !may_go_on || !flight.leads_for_all(s));
        let is_poor = |source| flight.is_behind_slow_node(&source) && !request.is_slow;
        if source.is_none_or(is_poor) && may_lead && flight.allows_another_lead() {
            // The slow lead cannot be called back; the faster one wins.
            if !flight.is_awaited_by(request.is_slow) {
                flight.lead(now, waiter.node, lead_state(request), asked);
                flight.set_second_lead(&waiter.node);
                return Some(Reply::Lead(true));
            }
            if waited < SECOND_LEAD_WAIT {
                return waiter.requeue_if_due(now);
            }
        }
        if let Some(source) = source {
            return attach_or_wait(now, flight, (source, shape), waiter, asked);
        }
        if flight.is_awaited_by(request.is_slow) {
            return waiter.requeue_if_due(now);
        }
        if let Some(elsewhere) = elsewhere {
            let is_large = flight.size.is_none_or(|size| size > tree::SMALL_OBJECT);
            let members = u32::try_from(view.shard_size()).unwrap_or(u32::MAX);
            let patience = if request.downstream_nodes > members / 4 {
                BUSY_FETCHER_WAIT
            } else {
                SHARD_GATHER
            };
            if is_large && !grants && waited < patience {
                return None;
            }
            // One node asks for the whole shard.
            flight.put(now, waiter.node, State::AskingElsewhere, asked);
            return Some(Reply::Redirect(node_field(Some(elsewhere))));
        }
        if !grants {
            // It was sent here for an object that is no longer here.
            return Some(Reply::Alone(true));
        }
        let add_holder = learns
            || (has_better && (request.requeue_after_ms > 0 || waited < PREFER_HOLD))
            || (request.is_slow && waited < PREFER_HOLD)
            || (in_leader_cooldown && waited < COOLDOWN_HOLD);
        if add_holder {
            return waiter.requeue_if_due(now);
        }
        flight.lead(now, waiter.node, lead_state(request), asked);
        flight.set_slow(&waiter.node, request.is_slow);
        Some(Reply::Lead(false))
    }

    /// The arbiter to redirect an asker to if no node here has the object: the global arbiter, or the arbiter of a
    /// shard that holds it. `None` for an asker of another shard.
    fn elsewhere(&self, key: &Key, asker: &NodeId, view: &impl View) -> Option<NodeId> {
        match view.global_arbiter(key) {
            None => self.arbiter_of_other_shard(key, asker, view),
            Some(root) => view.is_in_my_shard(asker).then_some(root),
        }
    }

    /// Tries to answer all waiting nodes: those that failed last, and those first that can pass the object on.
    pub(super) fn answer_waiting(&mut self, key: Key, cx: &mut Context<'_, impl View>) {
        let Some(flight) = self.flight(&key) else {
            return;
        };
        if flight.waiting.is_empty() {
            return;
        }
        let arbiter = cx.view.arbiter(&key);
        let is_arbiter = arbiter == Some(cx.view.me());
        if is_arbiter && (!flight.is_awaited_by(false) || !flight.feeds_nobody()) {
            let shape = flight.shape(&key, cx.view.shard_size());
            let is_sent = cx.view.global_arbiter(&key).is_some();
            let mut waiting = flight.waiting.take();
            waiting.sort_by_cached_key(|waiter| {
                let SourceRequest {
                    leader_cooldown,
                    repository,
                    ..
                } = waiter.request;
                let in_leader_cooldown =
                    leader_cooldown || self.in_leader_cooldown(cx.now, waiter.node, repository);
                (
                    in_leader_cooldown,
                    waiter.request.is_slow,
                    // A whole shard waits for its fetcher.
                    cx.view.is_in_my_shard(&waiter.node),
                    shape.has_classes() && !shape.is_inner(&waiter.node),
                    is_sent.then_some(waiter.request.downstream_nodes),
                    // The fetcher feeds more nodes than others do: a different one for each object.
                    is_sent.then(|| tree::tie_break(&waiter.node, key.hash())),
                )
            });
            for waiter in waiting {
                self.try_answer(waiter, cx);
            }
            return;
        }
        if is_arbiter {
            let lead = flight.awaited_lead(cx.now);
            for waiter in flight.waiting.take() {
                match waiter.requeue_if_due(cx.now) {
                    Some(reply) => {
                        flight.answer_later(&waiter);
                        answer(cx.out, waiter.node, (key, waiter.request.number), reply);
                    }
                    None => flight.waiting.push(waiter),
                }
            }
            let waiting = flight.waiting.iter_mut();
            waiting.for_each(|waiter| send_wait(cx.now, waiter, lead, cx.out));
        } else if let Some(arbiter) = arbiter {
            for waiter in flight.waiting.take() {
                if cx.now.since(waiter.since) >= REDIRECT_AFTER {
                    let name = (key, waiter.request.number);
                    answer(
                        cx.out,
                        waiter.node,
                        name,
                        Reply::Redirect(node_field(Some(arbiter))),
                    );
                } else {
                    flight.waiting.push(waiter);
                }
            }
        }
        if !flight.waiting.is_empty() {
            self.schedule(key, cx.now.after(BUSY_TICK));
        }
    }
}

/// The state of a leader when it is granted the lead: it can feed others if it has bytes already.
fn lead_state(request: &SourceRequest) -> State {
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
        let name = (waiter.request.key(), waiter.request.number);
        let leader = node_field(awaited);
        answer(out, waiter.node, name, Reply::Wait(Wait { leader }));
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
    let (node, request) = (waiter.node, &waiter.request);
    let is_leaf = shape.has_classes() && !shape.is_inner(&node);
    let depth = flight.get(&source)?.depth;
    let has_room = shape.has_room(&source, depth, flight.children(&source));
    let crowds = is_leaf && (depth == 0 || !has_room);
    if crowds && now.since(waiter.since) < INNER_NODE_WAIT {
        return None;
    }
    let order = flight.attach(now, node, source, asked);
    flight.set_slow(&node, request.is_slow);
    Some(follow(flight, source, order))
}

fn follow(flight: &Flight, source: NodeId, order: u32) -> Reply {
    Reply::Follow(Follow {
        source: node_field(Some(source)),
        epoch: flight.epoch,
        order,
        leader: node_field(flight.leader),
    })
}

fn answer(out: &mut Outbox, to: NodeId, (key, number): (Key, u64), reply: Reply) {
    out.send(to, Message::answer(key, number, reply));
}
