//! What a node keeps back while it gets a large object for its district.
//!
//! Of that it sends two copies, one into its district and one to the next. With a copy of each other object that comes
//! to it besides it would send a third more than its link carries, and all behind it would get a third less. So what it
//! wants besides comes last to it, when hardly anybody is left to whom it could pass that on, and one at a time; and it
//! gets nothing else for its district meanwhile, unless nobody asks for that for long.

use std::time::Duration;

use super::open::{Open, Question, withdraw};
use super::{Outcome, Seeks};
use crate::outbox::Outbox;
use crate::view::View;
use crate::{Key, NodeId, Time};

/// By then all others that ask have their places.
const LAST: Duration = Duration::from_secs(2);
/// No question is kept back for longer after the object began to come that it is kept back for.
const MOST: Duration = Duration::from_secs(12);
/// Whether it still is to be is looked at as often.
const LOOK: Duration = Duration::from_millis(500);

/// Large objects that come to a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    pub large: usize,
    /// Of these, those that it gets for its district and that go on coming.
    pub heads: Vec<Key>,
    /// Nodes that may be behind it in any of them, each time counted.
    pub behind: u32,
}

/// A large object that a node gets for its district.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heading {
    pub key: Key,
    pub since: Time,
}

impl Seeks {
    /// This comes to the node now.
    pub fn bears(&mut self, now: Time, load: Load, view: &impl View, out: &mut Outbox) {
        let goes_on = |heading: &Heading| {
            let asks = |open: &Open| open.is_for_district && open.question.key() == &heading.key;
            load.heads.contains(&heading.key) || self.open.values().any(asks)
        };
        let first = load.heads.first();
        let first = first.map(|key| Heading {
            key: *key,
            since: now,
        });
        self.heading = self.heading.filter(goes_on).or(first);
        self.load = load;
        for number in self.numbers(|open| open.held.is_some()) {
            self.look(now, number, view, out);
        }
    }

    /// `from` sends a question on to `to`: if that is for all of this node's district, and the object is a large one, others
    /// are kept back from now on. Says whether the question goes on, for this node may get another one for its district.
    pub(super) fn takes_on(
        &mut self,
        now: Time,
        number: u64,
        (from, to): (NodeId, NodeId),
        view: &impl View,
        out: &mut Outbox,
    ) -> bool {
        let Some(open) = self.open.get_mut(&number) else {
            return true;
        };
        let key = *open.question.key();
        let is_for_all = !view.is_near(&to) && view.arbiter(&key) == Some(from);
        if !is_for_all || !open.question.is_large() {
            return true;
        }
        let heading = *self.heading.get_or_insert(Heading { key, since: now });
        if heading.key != key {
            open.declines = true;
            if self.hold_back(now, number, view, out) {
                return false;
            }
        }
        if let Some(open) = self.open.get_mut(&number) {
            open.is_for_district = true;
        }
        let is_other = |open: &Open| open.asked.is_some() && !open.is_for_district;
        for other in self.numbers(is_other) {
            self.hold_back(now, other, view, out);
        }
        true
    }

    /// Keeps a question back, if it is to be. Says whether it is.
    pub(super) fn hold_back(
        &mut self,
        now: Time,
        number: u64,
        view: &impl View,
        out: &mut Outbox,
    ) -> bool {
        let Some(open) = self.open.get(&number) else {
            return false;
        };
        let Some(until) = self.held_until(open).filter(|until| *until > now) else {
            return false;
        };
        if let Some(group) = open.group() {
            self.meter(now, group);
        }
        let Some(mut open) = self.open.remove(&number) else {
            return false;
        };
        withdraw(&open, number, view, out);
        let wait = open.yields().unwrap_or(LOOK);
        open.held = Some(until.min(now.after(wait)));
        (open.asked, open.heard, open.lead, open.redirects) = (None, None, None, 0);
        open.silent.clear();
        // What is withdrawn has no answer: it is asked under another number.
        let number = self.number();
        self.open.insert(number, open);
        true
    }

    /// Until when a question is to be kept back.
    fn held_until(&self, open: &Open) -> Option<Time> {
        let Question::Seek(wanted) = &open.question else {
            return None;
        };
        let heading = self.heading.filter(|heading| heading.key != wanted.key)?;
        // What has begun goes on: others may wait for it behind this node.
        if !wanted.is_large() || wanted.offset > 0 || !open.is_patient {
            return None;
        }
        let is_other = |open: &&Open| {
            let key = open.question.key();
            open.asked.is_some()
                && open.question.is_large()
                && *key != wanted.key
                && *key != heading.key
        };
        let asked = self.open.values().filter(is_other).count();
        let heads = usize::from(self.load.heads.contains(&heading.key));
        let others = asked + self.load.large.saturating_sub(heads);
        let wait = if others > 0 || open.declines {
            MOST
        } else {
            LAST
        };
        Some(heading.since.after(wait))
    }

    /// Asks what was kept back, if that is over.
    pub(super) fn look(&mut self, now: Time, number: u64, view: &impl View, out: &mut Outbox) {
        let Some(open) = self.open.get(&number) else {
            return;
        };
        let until = self.held_until(open).filter(|until| *until > now);
        let is_due = open.held.is_some_and(|held| held <= now);
        let gives_way = is_due && open.yields().is_some();
        match until {
            Some(_) if gives_way => {
                if let Some(open) = self.open.remove(&number) {
                    self.settle(number, open, None, Outcome::Later);
                }
            }
            Some(until) if is_due => {
                if let Some(open) = self.open.get_mut(&number) {
                    open.held = Some(until.min(now.after(LOOK)));
                }
            }
            Some(_) => {}
            None => {
                if let Some(open) = self.open.get_mut(&number) {
                    (open.held, open.started, open.metered) = (None, now, now);
                    if let Some(group) = open.group() {
                        self.meter(now, group);
                    }
                }
                self.ask(now, number, None, view, out);
            }
        }
    }
}
