//! Handles the answers of owners, and their silence.

use super::pending::{AskedOwner, PendingRequest, Query};
use super::{CompletedRequest, MAX_REDIRECTS, RequestId, SourceRequests, WaitEnd};
use crate::outbox::Context;
use crate::slots::OWNERS;
use crate::view::View;
use crate::wire::{Holders, Reply, node, nodes};
use crate::{ChainPosition, Decision, Key, NodeId};

impl SourceRequests {
    /// Handles an answer. Returns whether a request waits for it. Only an answer of an owner that was asked counts.
    pub fn answered(
        &mut self,
        from: NodeId,
        (key, number): (Key, u64),
        reply: Reply,
        cx: &mut Context<'_, impl View>,
    ) -> bool {
        let open = self.asked_of(&from, number);
        let Some(open) = open.filter(|open| open.is_seek_for(&key)) else {
            return false;
        };
        let sequence = open.number.sequence;
        let mut is_second_lead = false;
        let decision = match reply {
            Reply::Wait(wait) => {
                let lead = node(&wait.leader);
                // An owner that was asked before may answer late.
                let asked = open.asked.filter(|asked| asked.owner == from);
                let asked = open
                    .asked
                    .insert(asked.unwrap_or(AskedOwner::new(cx.now, from)));
                asked.heard(cx.now);
                self.set_awaited_lead(cx.now, sequence, lead, wait.is_upstream_slow);
                if wait.fetches {
                    self.set_fetcher(sequence, cx);
                }
                return true;
            }
            Reply::Redirect(to) => {
                if let Some(to) = node(&to) {
                    self.redirected(sequence, from, to, cx);
                }
                return true;
            }
            Reply::Follow(follow) => {
                let Some(source) = node(&follow.source) else {
                    return false;
                };
                let (epoch, order) = (follow.epoch, follow.order);
                Decision::Follow {
                    source,
                    position: ChainPosition { epoch, order },
                    leader: node(&follow.leader),
                }
            }
            Reply::Lead(is_second) => {
                is_second_lead = is_second;
                Decision::Lead
            }
            Reply::Alone(_) => Decision::Alone,
            Reply::Later(_) if !open.requeue_after().is_zero() => Decision::Later,
            // The request does not allow it: containerd would count another end without a byte.
            Reply::Later(_) => Decision::Alone,
        };
        let end = match decision {
            Decision::Follow { .. } => WaitEnd::Found,
            Decision::Later => WaitEnd::Later,
            Decision::Lead | Decision::Alone => WaitEnd::InVain,
        };
        if let Some(open) = self.close(cx.now, sequence, end) {
            let refundable = self.refundable(&open);
            let Query::Source(request) = open.query else {
                return true;
            };
            self.completed.push(CompletedRequest {
                id: RequestId(sequence),
                number: open.number,
                request: *request,
                by: Some(from),
                asked: open.all_asked,
                decision,
                refundable,
                is_second_lead,
            });
        }
        true
    }

    fn redirected(
        &mut self,
        sequence: u64,
        from: NodeId,
        to: NodeId,
        cx: &mut Context<'_, impl View>,
    ) {
        let Some(open) = self.open.get_mut(&sequence) else {
            return;
        };
        if open.asked.is_none_or(|asked| asked.owner != from) {
            return;
        }
        if open.redirects >= MAX_REDIRECTS || to == from || !cx.view.is_member(&to) {
            self.is_silent(sequence, from, cx);
        } else {
            open.redirects += 1;
            open.silent.retain(|silent| *silent != to);
            self.ask(sequence, Some(to), cx);
        }
    }

    /// Handles the answer to a lookup. Only an answer of an owner that was asked counts.
    pub fn found(&mut self, from: NodeId, found: &Holders, cx: &mut Context<'_, impl View>) {
        let open = self.asked_of(&from, found.number);
        let Some(open) = open.filter(|open| matches!(open.query, Query::Holders(_))) else {
            return;
        };
        let sequence = open.number.sequence;
        let redirect = node(&found.redirect).filter(|to| *to != from && cx.view.is_member(to));
        if let Some(to) = redirect.filter(|_| open.redirects < MAX_REDIRECTS) {
            open.redirects += 1;
            self.ask(sequence, Some(to), cx);
        } else if self.open.remove(&sequence).is_some() {
            let holders = nodes(&found.holders).collect();
            self.found.push((RequestId(sequence), holders));
        }
    }

    /// Asks the next owner: a message to this one could not be delivered.
    pub fn undelivered(&mut self, to: NodeId, cx: &mut Context<'_, impl View>) {
        let is_asked = |open: &PendingRequest| open.asked.is_some_and(|asked| asked.owner == to);
        for sequence in self.sequences(is_asked) {
            self.is_silent(sequence, to, cx);
        }
    }

    pub(super) fn is_silent(
        &mut self,
        sequence: u64,
        owner: NodeId,
        cx: &mut Context<'_, impl View>,
    ) {
        if let Some(open) = self.open.get_mut(&sequence) {
            open.silent.push(owner);
            open.asked = None;
            if open.silent.len() > OWNERS + usize::from(MAX_REDIRECTS) {
                self.give_up(sequence, cx);
            } else {
                self.ask(sequence, None, cx);
            }
        }
    }
}
