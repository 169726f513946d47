//! Applies updates about members.

use std::time::Duration;

use super::member::{Member, NodeId};
use super::roster::Status;
use super::timing::{GOSSIP_BATCH, REMEMBER_DEAD, SUSPICION_HEARD};
use super::wire::{Claim, Kind, MAX_MESSAGE, MemberUpdate, Message};
use super::{Change, Datagram, Members, alive};
use crate::{Born, Time};

/// A claimed age that exceeds the known one by less than this, in milliseconds, is ignored: messages take that long.
const AGE_SLACK_MILLIS: u64 = 50;

impl Members {
    /// Applies updates. In a list (`hearsay`) a death may have been refuted long ago.
    pub(super) fn learn_all(
        &mut self,
        now: Time,
        from: NodeId,
        updates: Vec<MemberUpdate>,
        hearsay: bool,
    ) {
        let mut must_refute = false;
        for update in updates {
            let before = self.me.incarnation;
            must_refute |= update.id == self.me.id && update.incarnation < before;
            self.learn(now, update, hearsay);
            must_refute |= self.me.incarnation != before;
        }
        if must_refute {
            // The sender is answered first: it may be about to declare this node dead.
            let mut message = Message::new(&Kind::Gossip);
            message.push(&alive(now, &self.me), MAX_MESSAGE);
            self.datagrams.push(Datagram {
                to: from,
                bytes: message.finish(),
            });
        }
    }

    fn learn(&mut self, now: Time, update: MemberUpdate, hearsay: bool) {
        let MemberUpdate {
            id,
            incarnation,
            claim,
        } = update;
        if id == self.me.id {
            return self.learn_about_self(now, incarnation, &claim);
        }
        match claim {
            Claim::Alive { contact, age } => {
                let born = Born::from_age(now, age);
                self.learn_alive(
                    now,
                    Member {
                        id,
                        contact,
                        incarnation,
                        born,
                    },
                    hearsay,
                );
            }
            Claim::Down if !hearsay => {
                self.learn_not_alive(now, id, incarnation, Status::Down, REMEMBER_DEAD);
            }
            Claim::Suspect | Claim::Down => {
                self.learn_not_alive(now, id, incarnation, Status::Suspect, SUSPICION_HEARD);
            }
            Claim::Left => self.learn_not_alive(now, id, incarnation, Status::Left, REMEMBER_DEAD),
        }
    }

    fn learn_alive(&mut self, now: Time, mut member: Member, hearsay: bool) {
        let id = member.id;
        let entry = self.roster.get(&id);
        let Some(entry) = entry.filter(|entry| entry.status.is_live()) else {
            let is_old = entry.is_some_and(|dead| member.incarnation <= dead.member.incarnation);
            if !is_old && self.roster.has_room() {
                self.changes.push(Change::Joined(member.clone()));
                self.roster
                    .put(member, Status::Alive, None, &mut self.random);
                self.spread_alive(now, id, hearsay);
            }
            return;
        };
        let known = &entry.member;
        let is_newer = member.incarnation > known.incarnation;
        let is_older = known.born.millis_after(member.born) > AGE_SLACK_MILLIS;
        let is_younger = member.born.millis_after(known.born) > AGE_SLACK_MILLIS;
        if is_newer {
            if is_older || is_younger || *known.contact != *member.contact {
                self.changes.push(Change::Updated(member.clone()));
            } else {
                member.born = known.born.min(member.born);
            }
            self.roster
                .put(member, Status::Alive, None, &mut self.random);
            self.spread_alive(now, id, hearsay);
        } else if member.incarnation == known.incarnation && is_older {
            // The same life, by an age that spent less time on the way.
            let (status, deadline) = (entry.status, entry.deadline);
            // The same incarnation, with an age that was delayed less.
            self.changes.push(Change::Updated(member.clone()));
            self.roster.put(member, status, deadline, &mut self.random);
        }
    }

    fn spread_alive(&mut self, now: Time, id: NodeId, hearsay: bool) {
        // The senders of the first list know its members already.
        if self.has_joined() || !hearsay {
            self.spread(now, id);
        }
    }

    /// Records that a member is suspect, dead or gone in this incarnation, for the time `wait`.
    pub(super) fn learn_not_alive(
        &mut self,
        now: Time,
        id: NodeId,
        incarnation: u32,
        status: Status,
        wait: Duration,
    ) {
        let Some(entry) = self.roster.get(&id) else {
            return;
        };
        if incarnation < entry.member.incarnation || !entry.status.is_live() {
            return;
        }
        let is_known = status == entry.status && incarnation == entry.member.incarnation;
        let deadline = now.after(wait);
        let sooner = entry
            .deadline
            .filter(|before| is_known && *before < deadline);
        let member = Member {
            incarnation,
            ..entry.member.clone()
        };
        self.roster.put(
            member,
            status,
            Some(sooner.unwrap_or(deadline)),
            &mut self.random,
        );
        if is_known {
            return;
        }
        if !status.is_live() {
            self.changes.push(Change::Left(id));
        }
        self.spread(now, id);
    }

    fn learn_about_self(&mut self, now: Time, incarnation: u32, claim: &Claim) {
        let is_so = match claim {
            Claim::Alive { contact, age } => {
                // Ages are never too high: an older one belongs to an earlier process with this key.
                let earlier = self.me.born.millis_after(Born::from_age(now, *age));
                let same_life = **contact == *self.me.contact && earlier <= AGE_SLACK_MILLIS;
                incarnation < self.me.incarnation
                    || (incarnation == self.me.incarnation && same_life)
            }
            Claim::Suspect | Claim::Down | Claim::Left => incarnation < self.me.incarnation,
        };
        if !is_so {
            self.reincarnate(now, incarnation);
        }
    }

    /// Raises this node's incarnation above `incarnation` and tells all members.
    pub(super) fn reincarnate(&mut self, now: Time, incarnation: u32) {
        self.roster.count(&self.me);
        self.me.incarnation = incarnation.max(self.me.incarnation).saturating_add(1);
        self.roster.count(&self.me);
        self.spread(now, self.me.id);
    }

    pub(super) fn spread(&mut self, now: Time, id: NodeId) {
        self.rumors.add(id);
        self.next_gossip.get_or_insert(now.after(GOSSIP_BATCH));
    }
}
