//! Handles what nodes report about their pulls.

use super::Arbiter;
use super::flight::{Asked, State};
use crate::outbox::Context;
use crate::view::View;
use crate::wire::{self, PullState, Report, Wait};
use crate::{Key, NodeId};

impl Arbiter {
    /// Handles a request that was withdrawn, or whose answer is not used.
    pub fn withdrawn(
        &mut self,
        from: NodeId,
        (key, number): (Key, u64),
        cx: &mut Context<'_, impl View>,
    ) {
        let Some(flight) = self.flight(&key) else {
            return;
        };
        flight.end(from, number);
        let waiter = flight.waiting.get(&from);
        if waiter.is_some_and(|waiter| waiter.request.number == number) {
            flight.waiting.remove(&from);
        }
        let source = flight.get(&from);
        if source.is_some_and(|s| s.asked.number == number && s.state != State::Complete) {
            flight.remove(&from);
            self.answer_waiting(key, cx);
        }
    }

    /// Handles the state of a pull.
    pub fn reported(&mut self, from: NodeId, report: Report, cx: &mut Context<'_, impl View>) {
        let (key, number) = (wire::key(&report.key), report.number);
        let Some(stage) = report.state else {
            return;
        };
        let begins = matches!(stage, PullState::Alive(_) | PullState::Done(_));
        if !begins && self.flight(&key).is_none() {
            return;
        }
        let Some(flight) = self.open(cx.now, key, cx.view) else {
            return;
        };
        let known = flight.get(&from).map(|source| (source.state, source.asked));
        let asked = known.map_or(Asked::default(), |(_, asked)| asked);
        if flight.is_stale(&from, number) {
            return;
        }
        let is_same = asked.number == number;
        let asked = Asked { number, ..asked };
        flight.used = cx.now;
        match stage {
            PullState::WaitingElsewhere(Wait { leader }) => {
                let lead = wire::node(&leader);
                if is_same {
                    flight.asks(cx.now, &from, lead);
                }
                return;
            }
            PullState::Alive(alive) => {
                let (size, source) = (alive.size, wire::node(&alive.source));
                flight.size = flight.size.or(size);
                // The global arbiter hears of every source.
                let is_whole = cx.view.global_arbiter(&key).is_none();
                let is_known = |source| {
                    is_whole || flight.get(&source).is_some() || cx.view.is_in_my_shard(&source)
                };
                let state = match (size, source) {
                    (_, Some(source)) if !is_known(source) => State::FollowingElsewhere,
                    (_, Some(_)) => State::Following,
                    (Some(_), None) => State::Begun,
                    (None, None) => State::Granted,
                };
                let says_nothing_new = match known {
                    Some((State::Begun | State::Complete, _)) => is_same,
                    Some((State::Following | State::FollowingElsewhere, _)) => {
                        is_same && source.is_some()
                    }
                    Some((State::Granted, _)) => is_same && state != State::Begun,
                    Some((State::AskingElsewhere, _)) | None => false,
                };
                match source {
                    _ if says_nothing_new => {}
                    Some(source) if source == from => return,
                    Some(_) if state == State::FollowingElsewhere => {
                        flight.put(cx.now, from, state, asked);
                    }
                    Some(source) => {
                        flight.attach(cx.now, from, source, asked);
                    }
                    // It went upstream after all, or this arbiter is new.
                    None => flight.lead(cx.now, from, state, asked),
                }
                flight.heard(cx.now, &from);
                let is_slow_now = alive.is_slow && flight.set_slow(&from, true);
                if says_nothing_new && !is_slow_now {
                    return;
                }
            }
            PullState::Done(_) => flight.put(cx.now, from, State::Complete, asked),
            PullState::Failed(_) | PullState::WrongDigest(_) => {
                if matches!(stage, PullState::WrongDigest(_)) {
                    flight.mark_wrong(&from);
                }
                flight.end(from, number);
                let failed = flight.remove(&from);
                let led = failed.filter(|source| source.state.is_lead());
                if let Some(repository) = led.and_then(|led| led.asked.repository) {
                    self.start_leader_cooldown(cx.now, from, repository);
                }
            }
        }
        self.answer_waiting(key, cx);
    }
}
