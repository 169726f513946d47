//! Requests for a source as they come in: what they say about their flight, and whether they are answered already.

use super::Arbiter;
use super::asker::{ArbiterRole, Asker};
use super::decide::follow;
use super::flight::{Asked, Flight, State};
use super::waiting::Waiter;
use crate::outbox::Context;
use crate::slots::Slot;
use crate::view::View;
use crate::wire::{Reply, SourceRequest, node_field};
use crate::{NodeId, Time};

impl Arbiter {
    /// Answers a request, now or later. Returns the arbiter if it is silent and this owner takes its place.
    pub fn source_requested(
        &mut self,
        asker: Asker,
        request: SourceRequest,
        cx: &mut Context<'_, impl View>,
    ) -> Option<NodeId> {
        let (key, number) = (request.key(), request.number);
        let mut silent = None;
        if let ArbiterRole::NotArbiter(arbiter) = ArbiterRole::of(&asker, &key, cx.view) {
            let is_silent = |arbiter: &NodeId| request.silent_owner() == Some(*arbiter);
            silent = arbiter
                .filter(is_silent)
                .filter(|_| cx.view.owns(Slot::of(&key.0)));
            if silent.is_none() {
                if arbiter.is_some() {
                    let redirect = Reply::Redirect(node_field(arbiter));
                    asker.answer(key, number, redirect, cx.out);
                }
                return None;
            }
        }
        match self.note_request(cx.now, asker, request, cx.view) {
            Ok(waiter) => {
                self.note_cooldown(cx.now, &waiter);
                self.try_answer(waiter, cx);
            }
            Err(Some(reply)) => asker.answer(key, number, reply, cx.out),
            Err(None) => {}
        }
        silent
    }

    /// Starts the leader cooldown of a node that says that upstream gives it little or nothing, or ends it.
    fn note_cooldown(&mut self, now: Time, waiter: &Waiter) {
        let (node, repository) = (waiter.asker.node, waiter.request.repository);
        if !waiter.request.leader_cooldown {
            self.leader_cooldown.remove(&(node, repository));
        } else if !self.in_leader_cooldown(now, node, repository) {
            self.start_leader_cooldown(now, node, repository);
        }
    }

    /// Notes what a request says about its flight. Fails with the answer of a request that has one or cannot wait, or
    /// without one if the node needs none: it has sent a later request, or has the object.
    fn note_request(
        &mut self,
        now: Time,
        from: Asker,
        request: SourceRequest,
        view: &impl View,
    ) -> Result<Waiter, Option<Reply>> {
        let asker = from.node;
        let nodes = [asker].into_iter().chain(from.via);
        let Some(flight) = self.open(now, request.key(), nodes, view) else {
            return Err(Some(Reply::Alone(true)));
        };
        let number = request.request_number();
        if flight.is_answered_later(&asker, number) {
            return Err(Some(Reply::Later(true)));
        }
        if flight.is_stale(&asker, number) {
            return Err(None);
        }
        if !may_ask(flight, &from, &request, view) {
            // The arbiter that passes it on decides itself.
            return Err(Some(Reply::Alone(true)));
        }
        flight.used = now;
        flight.size = flight.size.or(request.size);
        flight.preferred_leader = request.preferred_leader().or(flight.preferred_leader);
        flight.concurrent_objects = flight.concurrent_objects.max(request.concurrent_objects);
        // A slow node leaves a source that is too fast for it; that is not the source's fault.
        let slow = request.slow_source().filter(|_| !request.is_slow);
        if let Some(slow) = slow.filter(|slow| flight.takes_complaint(&asker, slow)) {
            flight.set_slow(&slow, true);
        }
        let failed = request.failed_sources().next();
        if let Some(failed) = failed.filter(|failed| flight.takes_complaint(&asker, failed)) {
            flight.mark_doubtful(&failed);
        }
        use_or_drop_source(flight, now, &from, &request)?;
        Ok(match flight.stop_waiting(&asker) {
            Some(waiter) if waiter.request.request_number() == number => {
                waiter.repeated(from, request)
            }
            _ => Waiter::new(now, from, request),
        })
    }
}

/// Repeats the answer that a node has already, or ends what it did before. Fails as `note_request` does.
fn use_or_drop_source(
    flight: &mut Flight,
    now: Time,
    from: &Asker,
    request: &SourceRequest,
) -> Result<(), Option<Reply>> {
    let (asker, number) = (from.node, request.request_number());
    let source = flight.get(&asker);
    match source.map(|source| (source.state, source.asked, source.parent, source.order)) {
        // The same request gets the same answer: otherwise the arbiter would not know which answer the node acts on.
        Some((State::Complete, asked, ..)) if asked.number == number => {
            return Err(None);
        }
        Some((State::Following, asked, Some(source), order)) if asked.number == number => {
            return Err(Some(follow(flight, source, order)));
        }
        // Its download has failed, and its report is still on the way; or it ended early, and need not go on
        // upstream.
        Some((State::Granted | State::Begun, asked, ..))
            if asked.number != number
                && (request.leader_cooldown || flight.has_holder_for(&asker, request)) =>
        {
            flight.remove(&asker);
        }
        Some((State::Granted | State::Begun, asked, ..)) => {
            let asked = Asked {
                number,
                via: from.via,
                ..asked
            };
            let is_second = flight.ask_again(now, &asker, asked);
            return Err(Some(Reply::Lead(is_second)));
        }
        Some((State::Following, ..)) => flight.detach(&asker),
        // It has lost the object, or its source.
        Some((State::Complete | State::Fetching, ..)) => {
            flight.remove(&asker);
        }
        // The arbiter of the cluster knows whether it goes on.
        Some((State::LeadsForAll, ..)) | None => {}
    }
    Ok(())
}

/// Whether a request may replace what is known of its node: it is the same request, or its sender may change it.
fn may_ask(flight: &Flight, from: &Asker, request: &SourceRequest, view: &impl View) -> bool {
    let (key, number) = (request.key(), request.request_number());
    let source = flight.get(&from.node).map(|source| source.asked);
    let waiter = flight.waiting.get(&from.node).map(Waiter::asked);
    let mut known = source.into_iter().chain(waiter);
    known.all(|asked| asked.number == number || from.may_change(asked.via, &key, view))
}
