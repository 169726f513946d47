//! Who is in the cluster: full membership by SWIM, over a transport that knows who sent what.
//!
//! - Every member probes another one in each period, in random order, directly and then through three others. One
//!   that does not answer is suspect, everybody is told, and it is dead if it has not refuted that in 6 s.
//! - News spread as rumours: each member tells three others at a time until it has told enough.
//! - What rumours missed is found by comparing lists: a hash for each of 64 buckets, and the lists of those that
//!   differ. A node joins in the same way, with a list of itself alone. The dead are compared with, too, now and
//!   then: so a partition heals.
//! - A member's record carries the age that the member itself claims, so that a node that has just got its first
//!   list sees the same members as seasoned as those who sent it (see [`crate::slots`]).
//!
//! Why not the crate `foca`, which is SWIM too: it has nowhere to put an age that is reckoned when it is told; its probe
//! period is fixed when it starts, ours follows the size; a joiner gets one packet of members picked at random and
//! lists are never compared; each message carries both identities whole, 150 bytes, where a ping here is 2; it searches
//! all members for each piece of news (0.4 µs at 1,024, 4 µs at 10,000: bearable for a node, not for a simulator); and
//! a process that restarts must know how often it did before.
//!
//! Sources: SWIM (Das, Gupta, Motivala, 2002) with suspicion; comparing lists by Demers et al., Epidemic Algorithms
//! for Replicated Database Maintenance, 1987. What differs from SWIM: death is not for ever (a higher incarnation
//! brings a member back), and death by hearsay is a suspicion only, or else two healing parts would bury each other.

mod apply;
mod compare;
mod member;
mod pace;
mod probes;
mod roster;
mod rumors;
#[cfg(test)]
mod tests;
mod tick;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use member::{Contact, ContactError, MAX_ADDRESSES, MAX_ZONE, Member, NodeId};
pub use roster::MAX_MEMBERS;
pub use wire::{DecodeError, MAX_MESSAGE};

use crate::random::Random;
use crate::{Born, Time};
use compare::Joining;
use probes::Probes;
use roster::{Entry, Roster, Status};
use rumors::Rumors;
use wire::{Claim, Kind, Message, News};

/// News that go with a probe or its answer, in bytes at most.
const PIGGYBACK: usize = 1_200;
/// News of one round of gossip, in bytes at most.
const GOSSIP: usize = 16 * 1024;

/// A message to send. Losing it does no harm but delay. Where nobody knows the addresses of `to`, it is a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub to: NodeId,
    pub bytes: Bytes,
}

/// What has changed about the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Joined(Member),
    /// Its contact or its age is another than was told.
    Updated(Member),
    /// It left, or is taken for dead.
    Left(NodeId),
}

/// The membership as one node sees it. After each call take the messages and changes, and call [`Members::tick`] at
/// [`Members::next_deadline`].
#[derive(Debug)]
pub struct Members {
    me: Member,
    has_left: bool,
    roster: Roster,
    rumors: Rumors,
    probes: Probes,
    joining: Joining,
    random: Random,
    next_probe: Time,
    next_gossip: Option<Time>,
    next_sync: Time,
    datagrams: Vec<Datagram>,
    changes: Vec<Change>,
}

impl Members {
    /// A node that knows of nobody yet. `seed` spreads its choices; give each node and each start another one.
    pub fn new(now: Time, id: NodeId, contact: Contact, seed: u64) -> Self {
        let born = Born::from_age(now, Duration::ZERO);
        let me = Member {
            id,
            contact: Arc::new(contact),
            incarnation: 0,
            born,
        };
        let mut roster = Roster::new();
        roster.count(&me);
        Self {
            changes: vec![Change::Joined(me.clone())],
            me,
            has_left: false,
            roster,
            rumors: Rumors::default(),
            probes: Probes::default(),
            joining: Joining::default(),
            random: Random::new(seed),
            next_probe: now.after(pace::probe_every(1)),
            next_gossip: None,
            next_sync: now.after(pace::SYNC_AGAIN),
            datagrams: Vec::new(),
        }
    }

    /// This node itself.
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// A living member, this node included.
    pub fn get(&self, id: &NodeId) -> Option<&Member> {
        if *id == self.me.id {
            return Some(&self.me);
        }
        self.roster
            .get(id)
            .filter(|entry| entry.status.is_live())
            .map(|entry| &entry.member)
    }

    /// Everybody who lives, this node included.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        let others = self.roster.entries().filter(|entry| entry.status.is_live());
        std::iter::once(&self.me).chain(others.map(|entry| &entry.member))
    }

    /// How many live, this node included: at least 1.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.roster.live().len() + 1
    }

    /// Says whether this node has its first list, or has waited for one in vain. Before that it knows of too few to
    /// say who owns what.
    pub fn has_joined(&self) -> bool {
        self.joining.is_over()
    }

    /// The messages to send, in order.
    pub fn take_datagrams(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.datagrams)
    }

    /// What changed since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// This node is reached elsewhere from now on: the others are told.
    pub fn set_contact(&mut self, now: Time, contact: Contact) {
        if *self.me.contact != contact {
            self.me.contact = Arc::new(contact);
            self.changes.push(Change::Updated(self.me.clone()));
            self.reincarnate(now, self.me.incarnation);
        }
    }

    /// A member could not be reached: it is probed at once instead of when its turn comes.
    pub fn doubt(&mut self, now: Time, id: NodeId) {
        self.probe(now, id);
    }

    /// This node shuts down: the others learn it from the messages that this leaves, and it says no more afterwards.
    pub fn leave(&mut self) {
        self.has_left = true;
        let mut message = Message::new(&Kind::Gossip);
        let incarnation = self.me.incarnation;
        message.push(
            &News {
                id: self.me.id,
                incarnation,
                claim: Claim::Gone,
            },
            MAX_MESSAGE,
        );
        let bytes = message.finish();
        for to in self.roster.pick(pace::LEAVE_FANOUT, &mut self.random) {
            self.datagrams.push(Datagram {
                to,
                bytes: bytes.clone(),
            });
        }
    }

    /// Takes a message that `from` sent, as the transport has authenticated it. One that cannot be read changes
    /// nothing.
    pub fn receive(&mut self, now: Time, from: NodeId, message: &[u8]) -> Result<(), DecodeError> {
        let (kind, news) = wire::decode(message)?;
        if self.has_left || from == self.me.id {
            return Ok(());
        }
        match kind {
            Kind::List { parts, whole } => self.take_list(now, from, parts, whole, news),
            Kind::Sync { joining, digest } => {
                self.learn_all(now, from, news, false);
                self.answer_sync(now, from, joining, &digest);
            }
            Kind::Ping { number } => {
                self.learn_all(now, from, news, false);
                self.send_with_news(now, from, &Kind::Ack { number });
            }
            Kind::Ack { number } => {
                self.learn_all(now, from, news, false);
                if let Some((origin, number)) = self.probes.answered(from, number) {
                    self.send_with_news(now, origin, &Kind::Ack { number });
                }
                self.correct(now, from);
            }
            Kind::PingFor { target, number } => {
                self.learn_all(now, from, news, false);
                self.probe_for(now, from, target, number);
                self.correct(now, from);
            }
            Kind::Gossip => {
                self.learn_all(now, from, news, false);
                self.correct(now, from);
            }
        }
        Ok(())
    }

    fn probe(&mut self, now: Time, target: NodeId) {
        let Some(entry) = self
            .roster
            .get(&target)
            .filter(|entry| entry.status.is_live())
        else {
            return;
        };
        if let Some(number) = self.probes.begin(now, target, entry.member.incarnation) {
            self.send_with_news(now, target, &Kind::Ping { number });
        }
    }

    fn probe_for(&mut self, now: Time, origin: NodeId, target: NodeId, number: u32) {
        if self.roster.get(&target).is_none() {
            return;
        }
        if let Some(number) = self.probes.relay(now, target, origin, number) {
            self.send_with_news(now, target, &Kind::Ping { number });
        }
    }

    /// Sends a message with what `to` must know about itself and with some of the rumours.
    fn send_with_news(&mut self, now: Time, to: NodeId, kind: &Kind) {
        let mut message = Message::new(kind);
        if let Some(news) = self.objection(now, &to) {
            message.push(&news, PIGGYBACK);
        }
        self.add_rumors(now, &mut message, 1, PIGGYBACK);
        self.datagrams.push(Datagram {
            to,
            bytes: message.finish(),
        });
    }

    /// Tells a sender what it must know about itself; asks a stranger who it is.
    fn correct(&mut self, now: Time, from: NodeId) {
        if self.roster.get(&from).is_none() {
            self.send_sync(now, from);
        } else if let Some(news) = self.objection(now, &from) {
            let mut message = Message::new(&Kind::Gossip);
            message.push(&news, MAX_MESSAGE);
            self.datagrams.push(Datagram {
                to: from,
                bytes: message.finish(),
            });
        }
    }

    /// What this node holds about `id` that `id` would refute.
    fn objection(&self, now: Time, id: &NodeId) -> Option<News> {
        let entry = self
            .roster
            .get(id)
            .filter(|entry| entry.status != Status::Alive)?;
        Some(news(now, entry))
    }

    fn add_rumors(&mut self, now: Time, message: &mut Message, times: u8, limit: usize) {
        let Self {
            rumors, roster, me, ..
        } = self;
        rumors.tell(times, pace::copies(roster.live().len() + 1), |id| {
            let news = if id == me.id {
                Some(alive(now, me))
            } else {
                roster.get(&id).map(|entry| news(now, entry))
            };
            // One that is forgotten by now needs no telling.
            news.is_none_or(|news| message.push(&news, limit))
        });
    }
}

fn alive(now: Time, member: &Member) -> News {
    let claim = Claim::Alive {
        contact: Arc::clone(&member.contact),
        age: member.born.age(now),
    };
    News {
        id: member.id,
        incarnation: member.incarnation,
        claim,
    }
}

fn news(now: Time, entry: &Entry) -> News {
    let claim = match entry.status {
        Status::Alive => return alive(now, &entry.member),
        Status::Suspect => Claim::Suspect,
        Status::Down => Claim::Down,
        Status::Gone => Claim::Gone,
    };
    News {
        id: entry.member.id,
        incarnation: entry.member.incarnation,
        claim,
    }
}
