//! Handles the messages about keys.

use crate::arbiter::Asker;
use crate::outbox::{Context, Passed};
use crate::slots::Slot;
use crate::view::View;
use crate::wire::{self, Answer, Message, PullState, Reply, Resync, SourceRequest, Withdraw};
use crate::{Key, NodeId, Time};

use super::Coordinator;

impl Coordinator {
    pub(super) fn take(&mut self, now: Time, from: NodeId, passed: Passed, view: &impl View) {
        let (on_behalf_of, message) = passed;
        // No node speaks for nodes that it has made up.
        let is_allowed = |node| view.is_member(&node) && may_pass_on(&from, &message, view);
        if !on_behalf_of.is_none_or(is_allowed) {
            return;
        }
        let asker = Asker::new(from, on_behalf_of);
        let Self {
            arbiter,
            requests,
            out,
            ..
        } = self;
        let cx = &mut Context::new(now, view, out);
        match message {
            Message::Members(_) => {}
            Message::Announce(announce) => arbiter.announced(from, &announce, cx),
            Message::Renew(renew) => {
                let slots = arbiter.renewed(from, &renew);
                if slots != 0 {
                    out.send(from, Message::Resync(Resync { slots }));
                }
            }
            Message::Resync(Resync { slots }) => self.holdings.resync(now, from, slots),
            Message::SourceRequest(request) => self.source_requested(now, asker, request, view),
            Message::Withdraw(Withdraw { key, number }) => {
                arbiter.withdrawn(asker, (wire::key(&key), number), cx);
            }
            Message::Answer(answer) => self.answered(now, asker, answer, view),
            Message::Report(report) => {
                if let Some(PullState::Alive(alive)) = &report.state {
                    requests.exchange_rate(from, (alive.registry, alive.known_rate), cx);
                }
                arbiter.reported(asker, &report, cx);
            }
            Message::FindHolders(find) => arbiter.find_holders(asker, &find, cx),
            Message::Holders(found) if asker.via.is_some() => {
                out.send(asker.node, Message::Holders(found));
            }
            Message::Holders(found) => requests.found(from, &found, cx),
            Message::RegistryRate(told) => {
                if requests.has_asked(&from) || self.pulls.are_reported_to(&from) {
                    let known = told.known_rate.unwrap_or_default();
                    requests.registries.learn(now, told.registry, known);
                }
            }
        }
    }

    /// Handles a request for a source.
    fn source_requested(
        &mut self,
        now: Time,
        asker: Asker,
        request: SourceRequest,
        view: &impl View,
    ) {
        let me = view.me();
        let is_hearsay = asker.node != me;
        let failed = request.failed_sources().next();
        let failed = failed.map(|failed| (failed, is_hearsay));
        self.suspects.extend(failed);
        let cx = &mut Context::new(now, view, &mut self.out);
        if asker.via.is_none() {
            let rate = (request.registry, request.known_rate);
            self.requests.exchange_rate(asker.node, rate, cx);
        }
        let silent = self.arbiter.source_requested(asker, request, cx);
        self.suspects
            .extend(silent.map(|silent| (silent, is_hearsay)));
    }

    fn answered(&mut self, now: Time, asker: Asker, answer: Answer, view: &impl View) {
        let (key, number) = (wire::key(&answer.key), answer.number);
        let Some(reply) = answer.reply else {
            return;
        };
        let cx = &mut Context::new(now, view, &mut self.out);
        if asker.via.is_some() {
            return self.arbiter.answered(asker, (key, number), reply, cx);
        }
        let from = asker.node;
        let is_lead = matches!(reply, Reply::Lead(_));
        let is_granted = is_lead || matches!(reply, Reply::Follow(_));
        let is_awaited = self.requests.answered(from, (key, number), reply, cx);
        let is_used = is_lead && !is_awaited && self.pulls.promote(&from, (key, number), cx);
        if is_granted && !is_awaited && !is_used && !self.pulls.is_of_request(&key, number) {
            // Otherwise others would wait for this node.
            cx.out.send(from, Message::withdraw(key, number));
        }
    }
}

/// Whether a node may pass on a message of another one.
///
/// Requests and reports come from owners of the key only, and the arbiter checks which of them speaks for the node (see
/// [`Asker::may_change`]). An answer counts where the arbiter has asked its sender. Holders are passed on between
/// shards only: the sender knows the random number of the lookup, and the node checks the named holders itself.
fn may_pass_on(from: &NodeId, message: &Message, view: &impl View) -> bool {
    let is_owner = |key: Key| view.is_owner(from, Slot::of(&key.0));
    match message {
        Message::SourceRequest(_) | Message::Withdraw(_) => message.key().is_some_and(is_owner),
        Message::Answer(_) => true,
        Message::Report(_) | Message::FindHolders(_) | Message::Holders(_) => {
            view.shard_count() > 1 && message.key().is_some_and(is_owner)
        }
        Message::Members(_)
        | Message::Announce(_)
        | Message::Renew(_)
        | Message::Resync(_)
        | Message::RegistryRate(_) => false,
    }
}
