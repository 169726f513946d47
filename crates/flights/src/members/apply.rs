//! Applies what is told and observed about members.

use std::cmp::Ordering;
use std::sync::Arc;

use super::member::{Member, NodeId};
use super::roster::Entry;
use super::timing::{GOSSIP_BATCH, REMEMBER_DEAD, SUSPICION, SUSPICION_HEARD};
use super::wire::{Claim, Draft, MAX_MESSAGE, MemberUpdate, Status};
use super::{Change, Members};
use crate::Time;

/// An age that differs by less than this from the known one, in milliseconds, is the same: messages take that long.
const AGE_SLACK_MILLIS: u64 = 50;

/// Where a node knows something about a member from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// From its own probes.
    Probes,
    /// Another node has spread it.
    Gossip,
    /// It was in another node's list. A death in a list may have been refuted long ago.
    List,
}

impl Members {
    pub(super) fn learn_all(
        &mut self,
        now: Time,
        from: NodeId,
        claims: Vec<Claim>,
        source: Source,
    ) {
        let mut must_refute = false;
        for (member, status) in claims {
            if member.id == self.me().id {
                must_refute |= !self.check_claim_about_self(now, &member, status);
            } else {
                self.learn(now, member, status, source);
            }
        }
        if must_refute {
            // The sender is answered first: it may be about to declare this node dead.
            let mut message = Draft::new(None);
            message.push(self.update_about_self(now), MAX_MESSAGE);
            self.send(now, from, message);
        }
    }

    /// Applies a claim about another node, if it takes precedence over what is known.
    pub(super) fn learn(&mut self, now: Time, member: Member, status: Status, source: Source) {
        let known = self.roster.get(&member.id);
        let was_live = known.is_some_and(|known| known.status.is_live());
        let may_join = status.is_live() && self.roster.has_room();
        if !was_live && !may_join {
            return;
        }
        let mut told = entry(now, member, status, source);
        let mut is_news = true;
        if let Some(known) = known {
            // Only a higher incarnation brings a dead member back.
            let order = told.member.incarnation.cmp(&known.member.incarnation);
            if order == Ordering::Less || (order == Ordering::Equal && !was_live) {
                return;
            }
            is_news = told.precedence() > known.precedence();
            keep_contact_and_age(&mut told.member, &known.member, status);
            if !is_news {
                // The age may be better, and the deadline sooner.
                let deadlines = [told.deadline, known.deadline];
                told.deadline = deadlines.into_iter().flatten().min();
                told.status = known.status;
                if told.member == known.member && told.deadline == known.deadline {
                    return;
                }
            }
            if was_live && told.status.is_live() && is_changed(&told.member, &known.member) {
                self.changes.push(Change::Updated(told.member.clone()));
            }
        }
        let id = told.member.id;
        match (was_live, told.status.is_live()) {
            (false, _) => self.changes.push(Change::Joined(told.member.clone())),
            (true, false) => self.changes.push(Change::Left(id)),
            (true, true) => {}
        }
        self.roster.put(told, &mut self.random);
        // The senders of the first list know its members already.
        if is_news && (source != Source::List || self.has_joined()) {
            self.spread(now, id);
        }
    }

    /// Refutes a wrong claim about this node. Returns whether the claim is true.
    fn check_claim_about_self(&mut self, now: Time, told: &Member, status: Status) -> bool {
        let me = self.me();
        // Ages are never too high: an older one belongs to an earlier process with this key.
        let is_same_life =
            told.contact == me.contact && me.born.millis_after(told.born) <= AGE_SLACK_MILLIS;
        let is_true = status == Status::Alive && told.incarnation == me.incarnation && is_same_life;
        if !is_true && told.incarnation >= me.incarnation {
            self.reincarnate(now, told.incarnation);
        }
        is_true
    }

    /// Raises this node's incarnation above `incarnation` and tells all members.
    pub(super) fn reincarnate(&mut self, now: Time, incarnation: u32) {
        let mut me = self.me().clone();
        me.incarnation = incarnation.saturating_add(1);
        let id = me.id;
        self.roster.set_me(me);
        self.spread(now, id);
    }

    pub(super) fn update_about_self(&self, now: Time) -> MemberUpdate {
        MemberUpdate::new(now, self.me(), Status::Alive)
    }

    fn spread(&mut self, now: Time, id: NodeId) {
        self.rumors.add(id);
        self.next_gossip.get_or_insert(now.after(GOSSIP_BATCH));
    }
}

/// What a claim means for this node. A death in a list is only a suspicion.
fn entry(now: Time, member: Member, status: Status, source: Source) -> Entry {
    let (status, wait) = match (status, source) {
        (Status::Alive, _) => (Status::Alive, None),
        (Status::Suspect, Source::Probes) => (Status::Suspect, Some(SUSPICION)),
        (Status::Suspect, _) | (Status::Dead, Source::List) => {
            (Status::Suspect, Some(SUSPICION_HEARD))
        }
        (Status::Dead | Status::Left, _) => (status, Some(REMEMBER_DEAD)),
    };
    Entry {
        member,
        status,
        deadline: wait.map(|wait| now.after(wait)),
    }
}

/// Takes contact and age from what is known, unless the update has better ones.
///
/// A newer incarnation may have other ones. Of the same incarnation the higher age is right: it spent less time on the
/// way.
fn keep_contact_and_age(told: &mut Member, known: &Member, status: Status) {
    let is_newer = status.is_live() && told.incarnation > known.incarnation;
    let is_older = known.born.millis_after(told.born) > AGE_SLACK_MILLIS;
    let is_younger = told.born.millis_after(known.born) > AGE_SLACK_MILLIS;
    if !is_newer {
        told.contact = Arc::clone(&known.contact);
    }
    if !(status.is_live() && is_older || is_newer && is_younger) {
        told.born = known.born;
    }
}

fn is_changed(told: &Member, known: &Member) -> bool {
    told.contact != known.contact || told.born != known.born
}
