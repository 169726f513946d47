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
        let is_owner = |key: Key| view.is_owner(&from, Slot::of(&key.0));
        if on_behalf_of.is_some() && !message.key().is_none_or(is_owner) {
            // Only owners pass on what others say.
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
            Message::Resync(Resync { slots }) => self.holdings.announce_all(now, from, slots),
            Message::SourceRequest(request) => self.source_requested(now, asker, request, view),
            Message::Withdraw(Withdraw { key, number }) => {
                arbiter.withdrawn(asker, (wire::key(&key), number), cx);
            }
            Message::Answer(answer) => self.answered(now, asker, answer, view),
            Message::Report(report) => {
                if let Some(PullState::Alive(alive)) = &report.state {
                    let registries = &mut requests.registries;
                    registries.learn(now, alive.registry, alive.known_rate());
                }
                arbiter.reported(asker, &report, cx);
            }
            Message::FindHolders(find) => arbiter.find_holders(asker, &find, cx),
            Message::Holders(found) if asker.via.is_some() => {
                out.send(asker.node, Message::Holders(found));
            }
            Message::Holders(found) => requests.found(from, &found, cx),
            Message::RegistryRate(told) => {
                let known = told.known_rate();
                requests.registries.learn(now, told.registry, known);
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
        self.suspects.extend(request.failed_sources().next());
        let cx = &mut Context::new(now, view, &mut self.out);
        if asker.via.is_none() {
            self.requests.exchange_rate(asker.node, &request, cx);
        }
        let silent = self.arbiter.source_requested(asker, request, cx);
        self.suspects.extend(silent);
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
        let is_used = is_lead && !is_awaited && self.pulls.promote(key, cx);
        if is_granted && !is_awaited && !is_used && !self.pulls.is_of_request(&key, number) {
            // Otherwise others would wait for this node.
            cx.out.send(from, Message::withdraw(key, number));
        }
    }
}
