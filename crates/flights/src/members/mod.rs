//! The members of the cluster: full membership by SWIM, over a transport that authenticates senders.
//!
//! - Every member probes another one in each period, in random order, directly and then through three others. A member
//!   that does not answer is suspect; all members are told, and it is dead unless it refutes that within 6 s.
//! - Updates spread by gossip: each member tells three others at a time until it has told each update often enough.
//! - Comparing lists finds what gossip missed: 64 hashes, one for each bucket of members, and the lists of buckets that
//!   differ. A node joins in the same way, with a list of itself only. Dead members are contacted now and then as well,
//!   so partitions heal.
//! - A member's record carries the age that the member claims. A node with its first list therefore sees the same
//!   members as eligible as the nodes that sent it (see [`crate::slots`]).
//!
//! Why not the crate `foca`, which implements SWIM too: it has no field for an age that is computed when it is sent;
//! its probe period is fixed at the start, ours follows the size of the cluster; a joining node gets one packet of
//! random members, and lists are never compared; each message carries both identities in full, 150 bytes, where a ping
//! here has 2; it searches all members for each update (0.4 µs at 1,024, 4 µs at 10,000 members: too slow for the
//! simulator); and a restarted process must know its earlier incarnations.
//!
//! Sources: SWIM (Das, Gupta, Motivala, 2002) with suspicion; comparison of lists by Demers et al., Epidemic Algorithms
//! for Replicated Database Maintenance, 1987. Unlike in SWIM, death is not final (a higher incarnation brings a member
//! back), and a death heard in a list is only a suspicion: otherwise the parts of a healing partition would declare
//! each other dead.

mod apply;
mod compare;
mod member;
mod probes;
mod roster;
mod rumors;
#[cfg(test)]
mod tests;
mod tick;
mod timing;
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
use wire::{Claim, Kind, MemberUpdate, Message};

/// The most bytes of updates on a probe or its answer.
const PIGGYBACK: usize = 1_200;
/// The most bytes of updates in one round of gossip.
const GOSSIP: usize = 16 * 1024;

/// A message to send. If it is lost, only time is lost. If no node knows the addresses of `to`, it is a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The recipient.
    pub to: NodeId,
    /// The message.
    pub bytes: Bytes,
}

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node has joined.
    Joined(Member),
    /// Its contact or age has changed.
    Updated(Member),
    /// It has left, or was declared dead.
    Left(NodeId),
}

/// The membership as one node sees it.
///
/// After each call take the messages and changes, and call [`Members::tick`] at [`Members::next_deadline`].
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
    /// A node that knows no other node yet. `seed` spreads its choices and must differ for each node and each start.
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
            next_probe: now.after(timing::probe_every(1)),
            next_gossip: None,
            next_sync: now.after(timing::SYNC_AGAIN),
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

    /// All living members, this node included.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        let others = self.roster.entries().filter(|entry| entry.status.is_live());
        std::iter::once(&self.me).chain(others.map(|entry| &entry.member))
    }

    /// The number of living members, this node included: at least 1.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.roster.live().len() + 1
    }

    /// Whether this node has its first list, or has stopped waiting for one. Before that it knows too few members to
    /// tell who owns what.
    pub fn has_joined(&self) -> bool {
        self.joining.is_over()
    }

    /// The messages to send, in order.
    pub fn take_datagrams(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.datagrams)
    }

    /// The changes since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Changes this node's addresses and tells the other members.
    pub fn set_contact(&mut self, now: Time, contact: Contact) {
        if *self.me.contact != contact {
            self.me.contact = Arc::new(contact);
            self.changes.push(Change::Updated(self.me.clone()));
            self.reincarnate(now, self.me.incarnation);
        }
    }

    /// Probes a member at once: it could not be reached.
    pub fn probe_now(&mut self, now: Time, id: NodeId) {
        self.probe(now, id);
    }

    /// Leaves the cluster. The resulting messages tell the other members; the node sends nothing afterwards.
    pub fn leave(&mut self) {
        self.has_left = true;
        let mut message = Message::new(&Kind::Gossip);
        let incarnation = self.me.incarnation;
        message.push(
            &MemberUpdate {
                id: self.me.id,
                incarnation,
                claim: Claim::Left,
            },
            MAX_MESSAGE,
        );
        let bytes = message.finish();
        for to in self.roster.pick(timing::LEAVE_FANOUT, &mut self.random) {
            self.datagrams.push(Datagram {
                to,
                bytes: bytes.clone(),
            });
        }
    }

    /// Handles a message. `from` is its sender as authenticated by the transport. A message that cannot be decoded
    /// changes nothing.
    pub fn receive(&mut self, now: Time, from: NodeId, message: &[u8]) -> Result<(), DecodeError> {
        let (kind, updates) = wire::decode(message)?;
        if self.has_left || from == self.me.id {
            return Ok(());
        }
        match kind {
            Kind::List { parts, whole } => self.take_list(now, from, parts, whole, updates),
            Kind::Sync { joining, digest } => {
                self.learn_all(now, from, updates, false);
                self.answer_sync(now, from, joining, &digest);
            }
            Kind::Ping { number } => {
                self.learn_all(now, from, updates, false);
                self.send_with_updates(now, from, &Kind::Ack { number });
            }
            Kind::Ack { number } => {
                self.learn_all(now, from, updates, false);
                if let Some((origin, number)) = self.probes.answered(from, number) {
                    self.send_with_updates(now, origin, &Kind::Ack { number });
                }
                self.tell_sender_about_itself(now, from);
            }
            Kind::PingFor { target, number } => {
                self.learn_all(now, from, updates, false);
                self.probe_for(now, from, target, number);
                self.tell_sender_about_itself(now, from);
            }
            Kind::Gossip => {
                self.learn_all(now, from, updates, false);
                self.tell_sender_about_itself(now, from);
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
            self.send_with_updates(now, target, &Kind::Ping { number });
        }
    }

    fn probe_for(&mut self, now: Time, origin: NodeId, target: NodeId, number: u32) {
        if self.roster.get(&target).is_none() {
            return;
        }
        if let Some(number) = self.probes.relay(now, target, origin, number) {
            self.send_with_updates(now, target, &Kind::Ping { number });
        }
    }

    /// Sends a message with any claim about `to` that it should refute, and with some updates.
    fn send_with_updates(&mut self, now: Time, to: NodeId, kind: &Kind) {
        let mut message = Message::new(kind);
        if let Some(update) = self.claim_to_refute(now, &to) {
            message.push(&update, PIGGYBACK);
        }
        self.add_rumors(now, &mut message, 1, PIGGYBACK);
        self.datagrams.push(Datagram {
            to,
            bytes: message.finish(),
        });
    }

    /// Tells a sender any claim that it should refute; asks an unknown sender for its list.
    fn tell_sender_about_itself(&mut self, now: Time, from: NodeId) {
        if self.roster.get(&from).is_none() {
            self.send_sync(now, from);
        } else if let Some(update) = self.claim_to_refute(now, &from) {
            let mut message = Message::new(&Kind::Gossip);
            message.push(&update, MAX_MESSAGE);
            self.datagrams.push(Datagram {
                to: from,
                bytes: message.finish(),
            });
        }
    }

    /// The claim about `id` that `id` would refute, if there is one.
    fn claim_to_refute(&self, now: Time, id: &NodeId) -> Option<MemberUpdate> {
        let entry = self
            .roster
            .get(id)
            .filter(|entry| entry.status != Status::Alive)?;
        Some(update_about(now, entry))
    }

    fn add_rumors(&mut self, now: Time, message: &mut Message, times: u8, limit: usize) {
        let Self {
            rumors, roster, me, ..
        } = self;
        rumors.tell(times, timing::copies(roster.live().len() + 1), |id| {
            let update = if id == me.id {
                Some(alive(now, me))
            } else {
                roster.get(&id).map(|entry| update_about(now, entry))
            };
            // A member forgotten meanwhile needs no update.
            update.is_none_or(|update| message.push(&update, limit))
        });
    }
}

fn alive(now: Time, member: &Member) -> MemberUpdate {
    let claim = Claim::Alive {
        contact: Arc::clone(&member.contact),
        age: member.born.age(now),
    };
    MemberUpdate {
        id: member.id,
        incarnation: member.incarnation,
        claim,
    }
}

fn update_about(now: Time, entry: &Entry) -> MemberUpdate {
    let claim = match entry.status {
        Status::Alive => return alive(now, &entry.member),
        Status::Suspect => Claim::Suspect,
        Status::Down => Claim::Down,
        Status::Left => Claim::Left,
    };
    MemberUpdate {
        id: entry.member.id,
        incarnation: entry.member.incarnation,
        claim,
    }
}
