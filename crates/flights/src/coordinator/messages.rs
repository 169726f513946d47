//! Handles the messages about keys.

use crate::arbiter::Announcer;
use crate::outbox::Context;
use crate::slots::Slot;
use crate::view::View;
use crate::wire::{
    self, Answer, FindHolders, Holders, Message, PullState, RegistryRate, Reply, Resync,
    SourceRequest, Withdraw, node, node_field, nodes_field,
};
use crate::{NodeId, Time};

use super::Coordinator;

impl Coordinator {
    pub(super) fn take(&mut self, now: Time, from: NodeId, message: Message, view: &impl View) {
        let Self {
            arbiter,
            requests,
            out,
            ..
        } = self;
        match message {
            Message::Members(_) => {}
            Message::Announce(announce) => {
                arbiter.announced(from, &announce, &mut Context::new(now, view, out));
            }
            Message::Renew(renew) => {
                let of_shard = renew.of_shard;
                let slots = arbiter.renewed(Announcer::new(from, of_shard), &renew);
                if slots != 0 {
                    out.send(from, Message::Resync(Resync { slots, of_shard }));
                }
            }
            Message::Resync(Resync { slots, of_shard }) => {
                let holdings = if of_shard {
                    &mut self.shard
                } else {
                    &mut self.holdings
                };
                holdings.announce_all(now, from, slots);
            }
            Message::SourceRequest(request) => self.source_requested(now, from, request, view),
            Message::Withdraw(Withdraw { key, number }) => {
                arbiter.withdrawn(
                    from,
                    (wire::key(&key), number),
                    &mut Context::new(now, view, out),
                );
            }
            Message::Answer(answer) => self.answered(now, from, answer, view),
            Message::Report(report) => {
                if let Some(PullState::Alive(alive)) = &report.state {
                    let registries = &mut requests.registries;
                    registries.learn(now, alive.registry, alive.registry_rate);
                }
                arbiter.reported(from, report, &mut Context::new(now, view, out));
            }
            Message::FindHolders(FindHolders { key, number }) => {
                let key = wire::key(&key);
                let owners = view.owners(Slot::of(&key.0));
                let me = view.me();
                let is_owner =
                    owners.contains(&me) || view.global_owners(Slot::of(&key.0)).contains(&me);
                let holders = arbiter.holders(&key, from);
                let redirect = match view.global_arbiter(&key) {
                    _ if !is_owner => owners.arbiter(),
                    _ if !holders.is_empty() => None,
                    Some(root) => Some(root).filter(|_| view.is_in_my_shard(&from)),
                    None => arbiter.arbiter_of_other_shard(&key, &from, view),
                };
                let found = Holders {
                    number,
                    holders: nodes_field(holders),
                    redirect: node_field(redirect),
                };
                out.send(from, Message::Holders(found));
            }
            Message::Holders(found) => {
                requests.found(from, &found, &mut Context::new(now, view, out));
            }
            Message::RegistryRate(RegistryRate { registry, rate }) => {
                requests.registries.learn(now, registry, rate);
            }
        }
    }

    /// Handles a request for a source.
    fn source_requested(
        &mut self,
        now: Time,
        from: NodeId,
        mut request: SourceRequest,
        view: &impl View,
    ) {
        let Self {
            arbiter,
            requests,
            out,
            ..
        } = self;
        let key = request.key();
        if request.on_behalf_of.is_empty() {
            requests.exchange_rate(from, &request, &mut Context::new(now, view, out));
        }
        if let Some(asker) = node(&std::mem::take(&mut request.on_behalf_of)) {
            // The arbiter after this one forwarded it, as it knows nothing about the key yet.
            arbiter.source_requested(asker, request, &mut Context::new(now, view, out));
            return;
        }
        let owners = view.owners(Slot::of(&key.0));
        let is_root = |node: &NodeId| view.global_owners(Slot::of(&key.0)).contains(node);
        let silent = node(&request.silent_owner);
        self.suspects.extend(request.failed_sources().next());
        self.suspects.extend(silent.filter(is_root));
        match owners.arbiter() {
            Some(first) if first == view.me() => {
                let before = view.previous_arbiter(Slot::of(&key.0));
                let before = before.filter(|before| view.is_member(before));
                match before.filter(|before| *before != view.me() && !arbiter.knows(&key)) {
                    Some(before) => {
                        request.on_behalf_of = node_field(Some(from));
                        out.send(before, Message::SourceRequest(request));
                    }
                    None => {
                        arbiter.source_requested(from, request, &mut Context::new(now, view, out));
                    }
                }
            }
            Some(first) if silent == Some(first) && owners.contains(&view.me()) => {
                self.suspects.push(first);
                arbiter.keep(from, request, &mut Context::new(now, view, out));
            }
            Some(first) => {
                let reply = Reply::Redirect(node_field(Some(first)));
                out.send(from, Message::answer(key, request.number, reply));
            }
            None => {}
        }
    }

    fn answered(&mut self, now: Time, from: NodeId, answer: Answer, view: &impl View) {
        let Self {
            requests,
            pulls,
            out,
            ..
        } = self;
        let (key, number) = (wire::key(&answer.key), answer.number);
        let Some(reply) = answer.reply else {
            return;
        };
        let is_lead = matches!(reply, Reply::Lead(_));
        let is_granted = is_lead || matches!(reply, Reply::Follow(_));
        let is_awaited = requests.answered(
            from,
            (key, number),
            reply,
            &mut Context::new(now, view, out),
        );
        let is_used =
            is_lead && !is_awaited && pulls.promote(key, &mut Context::new(now, view, out));
        if is_granted && !is_awaited && !is_used && !pulls.is_of_request(&key, number) {
            // Otherwise others would wait for this node.
            out.send(from, Message::withdraw(key, number));
        }
    }
}
