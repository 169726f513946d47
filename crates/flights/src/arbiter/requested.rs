//! Requests for a source as they come in: what they say about their flight, and whether they have their answer already.

use super::Arbiter;
use super::asker::{Asker, Role};
use super::flight::State;
use super::grants::follow;
use super::waiting::Waiter;
use crate::outbox::Context;
use crate::slots::Slot;
use crate::view::View;
use crate::wire::{Reply, SourceRequest, node_field};
use crate::{NodeId, Time};

impl Arbiter {
    /// Answers a request, now or later. Returns the arbiter if that is silent and this owner takes its place.
    pub fn source_requested(
        &mut self,
        asker: Asker,
        request: SourceRequest,
        cx: &mut Context<'_, impl View>,
    ) -> Option<NodeId> {
        let (key, number) = (request.key(), request.number);
        let mut silent = None;
        if let Role::NotArbiter(arbiter) = Role::of(&asker, &key, cx.view) {
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
            Ok(waiter) => self.try_answer(waiter, cx),
            Err(Some(reply)) => asker.answer(key, number, reply, cx.out),
            Err(None) => {}
        }
        silent
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
        if flight.is_answered_later(&asker, request.number) {
            return Err(Some(Reply::Later(true)));
        }
        if flight.is_stale(&asker, request.number) {
            return Err(None);
        }
        let source = flight.get(&asker);
        let source = source.map(|source| (source.state, source.asked, source.parent, source.order));
        flight.used = now;
        flight.size = flight.size.or(request.size);
        flight.preferred_leader = request.preferred_leader().or(flight.preferred_leader);
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
                return Err(None);
            }
            Some((State::Following, asked, Some(source), order))
                if asked.number == request.number =>
            {
                return Err(Some(follow(flight, source, order)));
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
        Ok(match flight.stop_waiting(&asker) {
            Some(waiter) if waiter.request.number == request.number => Waiter {
                request,
                asker: from,
                ..waiter
            },
            _ => Waiter::new(now, from, request),
        })
    }
}
