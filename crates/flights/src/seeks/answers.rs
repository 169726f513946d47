//! What owners say, and what follows from their silence.

use std::time::Duration;

use super::open::{Open, Question};
use super::{MAX_REDIRECTS, Outcome, Place, Seeks};
use crate::outbox::Outbox;
use crate::slots::OWNERS;
use crate::view::View;
use crate::wire::{Message, Stage, Verdict};
use crate::{Key, NodeId, Time};

impl Seeks {
    /// An owner has answered. Says whether anybody waits for that.
    pub fn answered(
        &mut self,
        now: Time,
        from: NodeId,
        (key, number): (Key, u64),
        verdict: Verdict,
        view: &impl View,
        out: &mut Outbox,
    ) -> bool {
        let open = self.open.get_mut(&number);
        let Some(open) = open.filter(|open| open.is_seek_for(&key)) else {
            return false;
        };
        let outcome = match verdict {
            Verdict::Wait { lead, is_busy } => {
                open.heard = Some(now);
                // Another than who was asked, if the question was passed on.
                open.asked = Some((from, now, 1));
                self.waits_for(now, number, lead);
                if is_busy {
                    self.spare(now, number);
                }
                let arbiter = view.arbiter(&key).filter(|arbiter| *arbiter != from);
                if let Some(arbiter) = arbiter.filter(|_| view.districts() > 1) {
                    // Others of this district wait for what comes of it.
                    let stage = Stage::Asks { lead, is_busy };
                    out.send(arbiter, Message::Report { key, number, stage });
                }
                return true;
            }
            Verdict::Redirect(to) => {
                self.redirected(now, number, from, to, view, out);
                return true;
            }
            Verdict::Follow {
                source,
                epoch,
                order,
                leader,
                led_for,
            } => Outcome::Follow {
                source,
                place: Place { epoch, order },
                leader,
                led_for: led_for.map(|millis| Duration::from_millis(millis.into())),
            },
            Verdict::Lead => Outcome::Lead,
            Verdict::Alone => Outcome::Alone,
            Verdict::Later => Outcome::Later,
        };
        // Waiting for a lead that has begun cost nothing but what was beyond upstream's own time.
        // What is asked again later gave its place to others, who are as near.
        let well = matches!(outcome, Outcome::Follow { .. } | Outcome::Later);
        if let Some(open) = self.close(now, number, well) {
            if let Question::Seek(wanted) = &open.question {
                self.budgets.mute(wanted.group, false);
            }
            self.settle(number, open, Some(from), outcome);
        }
        true
    }

    fn redirected(
        &mut self,
        now: Time,
        number: u64,
        from: NodeId,
        to: NodeId,
        view: &impl View,
        out: &mut Outbox,
    ) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if open.asked.is_none_or(|(asked, ..)| asked != from) {
            return;
        }
        open.heard = None;
        if !self.takes_on(now, number, (from, to), view, out) {
            return;
        }
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if open.redirects >= MAX_REDIRECTS || to == from {
            self.is_silent(now, number, from, view, out);
        } else {
            open.redirects += 1;
            open.silent.retain(|silent| *silent != to);
            self.ask(now, number, Some(to), view, out);
        }
    }

    /// An owner has answered a look-up.
    pub fn found(
        &mut self,
        now: Time,
        from: NodeId,
        number: u64,
        (holders, redirect): (Vec<NodeId>, Option<NodeId>),
        view: &impl View,
        out: &mut Outbox,
    ) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if !matches!(open.question, Question::Find(_)) {
            return;
        }
        if let Some(to) = redirect.filter(|to| *to != from && open.redirects < MAX_REDIRECTS) {
            open.redirects += 1;
            self.ask(now, number, Some(to), view, out);
        } else if let Some(open) = self.open.remove(&number) {
            self.settle(number, open, Some(from), Outcome::Found(holders));
        }
    }

    /// A message to `to` could not be delivered: what it was asked, others are asked now.
    pub fn undelivered(&mut self, now: Time, to: NodeId, view: &impl View, out: &mut Outbox) {
        let is_asked = |open: &Open| open.asked.is_some_and(|(asked, ..)| asked == to);
        for number in self.numbers(is_asked) {
            self.is_silent(now, number, to, view, out);
        }
    }

    pub(super) fn is_silent(
        &mut self,
        now: Time,
        number: u64,
        owner: NodeId,
        view: &impl View,
        out: &mut Outbox,
    ) {
        if let Some(open) = self.open.get_mut(&number) {
            open.silent.push(owner);
            open.heard = None;
            if open.silent.len() > OWNERS + usize::from(MAX_REDIRECTS) {
                self.give_up(now, number, view, out);
            } else {
                self.ask(now, number, None, view, out);
            }
        }
    }
}
