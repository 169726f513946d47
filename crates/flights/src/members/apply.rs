//! What news do to what this node knows.

use std::time::Duration;

use super::member::{Member, NodeId};
use super::pace::{GOSSIP_BATCH, REMEMBER_DEAD, SUSPICION_HEARD};
use super::roster::Status;
use super::wire::{Claim, Kind, MAX_MESSAGE, Message, News};
use super::{Change, Datagram, Members, alive};
use crate::{Born, Time};

/// A claimed age that is higher than that held by less than this is not worth telling. Messages spend that much on
/// the way.
const AGE_SLACK_MILLIS: u64 = 50;

impl Members {
    /// Takes news in. Where they are from a list (`hearsay`), a death among them may be one long refuted.
    pub(super) fn learn_all(&mut self, now: Time, from: NodeId, news: Vec<News>, hearsay: bool) {
        let mut is_wrong_about_me = false;
        for news in news {
            let before = self.me.incarnation;
            is_wrong_about_me |= news.id == self.me.id && news.incarnation < before;
            self.learn(now, news, hearsay);
            is_wrong_about_me |= self.me.incarnation != before;
        }
        if is_wrong_about_me {
            // Whoever told it gets the answer first: it may be about to bury this node.
            let mut message = Message::new(&Kind::Gossip);
            message.push(&alive(now, &self.me), MAX_MESSAGE);
            self.datagrams.push(Datagram {
                to: from,
                bytes: message.finish(),
            });
        }
    }

    fn learn(&mut self, now: Time, news: News, hearsay: bool) {
        let News {
            id,
            incarnation,
            claim,
        } = news;
        if id == self.me.id {
            return self.learn_of_me(now, incarnation, &claim);
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
                self.learn_ill(now, id, incarnation, Status::Down, REMEMBER_DEAD);
            }
            Claim::Suspect | Claim::Down => {
                self.learn_ill(now, id, incarnation, Status::Suspect, SUSPICION_HEARD);
            }
            Claim::Gone => self.learn_ill(now, id, incarnation, Status::Gone, REMEMBER_DEAD),
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
            self.changes.push(Change::Updated(member.clone()));
            self.roster.put(member, status, deadline, &mut self.random);
        }
    }

    fn spread_alive(&mut self, now: Time, id: NodeId, hearsay: bool) {
        // The first list is known to those who sent it.
        if self.has_joined() || !hearsay {
            self.spread(now, id);
        }
    }

    /// The member is suspect, dead or gone in its life `incarnation`, and that holds for `wait`.
    pub(super) fn learn_ill(
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

    fn learn_of_me(&mut self, now: Time, incarnation: u32, claim: &Claim) {
        let is_so = match claim {
            Claim::Alive { contact, age } => {
                // Ages are never told too high: an older one is that of an earlier process with this key.
                let earlier = self.me.born.millis_after(Born::from_age(now, *age));
                let same_life = **contact == *self.me.contact && earlier <= AGE_SLACK_MILLIS;
                incarnation < self.me.incarnation
                    || (incarnation == self.me.incarnation && same_life)
            }
            Claim::Suspect | Claim::Down | Claim::Gone => incarnation < self.me.incarnation,
        };
        if !is_so {
            self.reincarnate(now, incarnation);
        }
    }

    /// Raises this node's incarnation above `incarnation` and tells everybody.
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
