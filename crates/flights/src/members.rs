//! The members of the cluster: full membership by SWIM, over a transport that authenticates senders.
//!
//! - A member's record (incarnation, addresses) is signed with the key that is its id, and counts only with a valid
//!   signature. A member leaves by its own signature only.
//! - Every member probes another one in each period, in random order, directly and then through three others. A member
//!   that does not answer is suspect; all members are told and probe it themselves. Each declares it dead after 6 s,
//!   unless it hears from it. What others say causes one probe, at a bounded rate, and changes nothing by itself.
//! - Updates spread by gossip: each member tells three others at a time until it has told each update often enough.
//! - Comparing lists finds what gossip missed: 64 hashes, one for each bucket of members, and the lists of buckets that
//!   differ. A node joins in the same way, with a list of itself only. Dead members are contacted now and then as well,
//!   so partitions heal.
//! - A node that others name is probed once, and becomes a member when it answers. One host is 16 members at most. Only
//!   the members of the first list, and those that others name in a large cluster, are taken unprobed: otherwise each
//!   node would connect to every other.
//! - The age of a member counts from when this node first heard of it; others may claim 10 s more. Only a node with its
//!   first list takes ages from that, and so sees the same members as eligible as its sender (see [`crate::slots`]).
//!
//! Why not the crate `foca`, which implements SWIM too: it has no field for an age that is computed when it is sent;
//! its probe period is fixed at the start, ours follows the size of the cluster; a joining node gets one packet of
//! random members, and lists are never compared; each message carries both identities in full, 150 bytes, where a ping
//! here has 6; it searches all members for each update (0.4 µs at 1,024, 4 µs at 10,000 members: too slow for the
//! simulator); and a restarted process must know its earlier incarnations.
//!
//! Sources: SWIM (Das, Gupta, Motivala, 2002) with suspicion; comparison of lists by Demers et al., Epidemic Algorithms
//! for Replicated Database Maintenance, 1987. Unlike in SWIM, death is not final (a higher incarnation brings a member
//! back), and a death that others report only causes a probe: otherwise one hostile node could remove any other, and
//! the parts of a healing partition would declare each other dead.

mod apply;
mod compare;
mod contacts;
mod doubts;
#[cfg(test)]
mod hostile_tests;
mod joining;
mod member;
mod newcomers;
mod probes;
mod roster;
mod rumors;
mod signatures;
#[cfg(test)]
mod tests;
mod tick;
mod timing;
mod verifications;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use member::{Contact, MAX_ADDRESSES, Member, NodeId, Sender};
pub use roster::MAX_MEMBERS;
pub use signatures::{Signature, Signatures};

use crate::random::Random;
use crate::wire::{Message, node, node_field};
use crate::{Born, DecodeError, Time};
use apply::Source;
use compare::Asked;
use contacts::Contacts;
use doubts::Doubts;
use joining::Joining;
use newcomers::Newcomers;
use probes::Probes;
use roster::Roster;
use rumors::Rumors;
use verifications::Verifications;
use wire::{
    Claim, Draft, Kind, MAX_MESSAGE, MemberUpdate, MembersMessage, Probe, Status, signed_bytes,
};

/// The most bytes of a probe or its answer, with updates.
const PIGGYBACK: usize = 1_200;
/// The start of the count of incarnations: 2020-01-01, in seconds since 1970.
const INCARNATION_EPOCH: u64 = 1_577_836_800;
/// The highest first incarnation: a node whose clock is far ahead can still raise it, once a second for 17 years.
const MAX_FIRST_INCARNATION: u32 = u32::MAX - (1 << 29);
/// The most bytes of one round of gossip.
const GOSSIP: usize = 16 * 1024;

/// A message to send. Its loss costs only time. If no node knows the addresses of `to`, it is a seed.
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
    has_left: bool,
    signatures: Box<dyn Signatures>,
    roster: Roster,
    rumors: Rumors,
    probes: Probes,
    doubts: Doubts,
    newcomers: Newcomers,
    contacts: Contacts,
    verifications: Verifications,
    /// Nodes that were asked for their lists.
    asked: BTreeMap<NodeId, Asked>,
    /// Nodes that were sent lists, and until when they are sent no others.
    listed: BTreeMap<NodeId, Time>,
    next_refutation: Time,
    /// Nodes to which this one has introduced itself.
    introduced: BTreeSet<NodeId>,
    joining: Joining,
    random: Random,
    next_probe: Time,
    next_gossip: Option<Time>,
    next_sync: Time,
    datagrams: Vec<Datagram>,
    changes: Vec<Change>,
}

impl Members {
    /// A node that knows no other node yet. `seed` spreads its choices and must differ for each node and each start;
    /// `signatures` signs with the key of `id`.
    pub fn new(
        now: Time,
        id: NodeId,
        contact: Contact,
        seed: u64,
        signatures: Box<dyn Signatures>,
    ) -> Self {
        let me = Member {
            id,
            contact: Arc::new(contact),
            incarnation: 0,
            born: Born::from_age(now, Duration::ZERO),
        };
        let signature = signatures.sign(&signed_bytes(&me, false));
        Self {
            changes: vec![Change::Joined(me.clone())],
            has_left: false,
            signatures,
            roster: Roster::new(me, signature),
            rumors: Rumors::default(),
            probes: Probes::default(),
            doubts: Doubts::default(),
            newcomers: Newcomers::default(),
            contacts: Contacts::new(now),
            verifications: Verifications::default(),
            asked: BTreeMap::new(),
            listed: BTreeMap::new(),
            next_refutation: now,
            introduced: BTreeSet::new(),
            joining: Joining::default(),
            random: Random::new(seed),
            next_probe: now.after(timing::probe_every(1)),
            next_gossip: None,
            next_sync: now.after(timing::SYNC_AGAIN),
            datagrams: Vec::new(),
        }
    }

    /// Starts with an incarnation that follows from the time of day, in seconds since 1970. So the records of an
    /// earlier process with the same key, with which it may have left, are older. To be called before the node joins.
    ///
    /// A clock that is wrong does no harm: if other nodes know a higher incarnation, this node raises its own above it.
    #[must_use]
    pub fn at_time_of_day(mut self, unix_seconds: u64) -> Self {
        let seconds = unix_seconds.saturating_sub(INCARNATION_EPOCH);
        let incarnation = u32::try_from(seconds).unwrap_or(u32::MAX);
        let mut me = self.me().clone();
        me.incarnation = incarnation.min(MAX_FIRST_INCARNATION);
        let signature = self.signatures.sign(&signed_bytes(&me, false));
        self.changes = vec![Change::Joined(me.clone())];
        self.roster.set_me(me, signature);
        self
    }

    /// This node itself.
    pub fn me(&self) -> &Member {
        self.roster.me()
    }

    /// A living member, this node included.
    pub fn get(&self, id: &NodeId) -> Option<&Member> {
        self.roster.get_live(id).map(|entry| &entry.member)
    }

    /// Whether a living member does not answer, and is declared dead unless it does soon.
    pub fn is_suspected(&self, id: &NodeId) -> bool {
        let entry = self.roster.get_live(id);
        entry.is_some_and(|entry| entry.status == Status::Suspect)
    }

    /// All living members, this node included.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        let live = self.roster.entries().filter(|entry| entry.status.is_live());
        live.map(|entry| &entry.member)
    }

    /// The number of living members, this node included: at least 1.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.roster.live() + 1
    }

    /// Whether this node has its first list, or has stopped waiting for one. Before that it knows too few members to
    /// tell who owns what.
    pub fn has_joined(&self) -> bool {
        !self.joining.is_waiting
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
        let mut me = self.me().clone();
        if *me.contact != contact {
            me.contact = Arc::new(contact);
            self.changes.push(Change::Updated(me.clone()));
            let incarnation = me.incarnation;
            // Signed with the next incarnation.
            let unsigned = self.roster.my_entry().signature;
            self.roster.set_me(me, unsigned);
            self.reincarnate(now, incarnation);
        }
    }

    /// Leaves the cluster. The resulting messages tell the other members; the node sends nothing afterwards.
    pub fn leave(&mut self) {
        self.has_left = true;
        let mut message = Draft::new(None);
        // Without an age, for which the time would matter.
        let signature = self.signatures.sign(&signed_bytes(self.me(), true));
        let update = MemberUpdate::new(Time::default(), self.me(), Status::Left, &signature);
        message.push(update, MAX_MESSAGE);
        let targets = self.roster.pick(timing::LEAVE_FANOUT, &mut self.random);
        self.send_to_all(targets, message);
    }

    /// Handles a datagram. Only messages of the membership have an effect.
    ///
    /// # Errors
    ///
    /// The datagram cannot be decoded, and nothing has changed; or a record has a false signature, and what came before
    /// it has been applied.
    pub fn receive(
        &mut self,
        now: Time,
        from: impl Into<Sender>,
        datagram: Bytes,
    ) -> Result<(), DecodeError> {
        match Message::from_datagram(datagram)? {
            (_, Message::Members(message)) => self.accept(now, from, message),
            _ => Ok(()),
        }
    }

    /// Handles a message of the membership. See [`Members::receive`].
    pub(crate) fn accept(
        &mut self,
        now: Time,
        from: impl Into<Sender>,
        message: MembersMessage,
    ) -> Result<(), DecodeError> {
        let sender = from.into();
        let from = sender.id;
        let (kind, claims) = message.read(now)?;
        if self.has_left || from == self.me().id {
            return Ok(());
        }
        self.contacts.receive_from(sender);
        self.clear_suspicion(now, from);
        self.prove(now, from);
        if let Some(Kind::List(list)) = kind {
            return self.take_list(now, from, &list, claims);
        }
        self.learn_all(now, from, claims, Source::Gossip, false)?;
        self.prove(now, from);
        match kind {
            Some(Kind::Sync(sync)) => {
                self.answer_sync(now, from, &sync);
                return Ok(());
            }
            Some(Kind::Ping(probe)) => self.answer_ping(now, from, probe),
            Some(Kind::Ack(probe)) => self.take_ack(now, from, probe),
            Some(Kind::List(_)) | None => {}
        }
        // Asks an unknown sender for its list, and tells a known one what it should refute.
        match self.roster.get(&from).map(|entry| entry.status) {
            None => self.send_sync(now, from, 0),
            Some(Status::Alive) => {}
            Some(_) => self.send(now, from, Draft::new(None)),
        }
        Ok(())
    }

    /// The addresses of a member, or of a node that may become one.
    pub fn contact(&self, id: &NodeId) -> Option<&Contact> {
        let member = self.get(id).map(|member| &*member.contact);
        member.or_else(|| self.newcomers.contact(id))
    }

    /// The message with which this node introduces itself to another one, which may not know it yet: once to each.
    pub(crate) fn introduction(&mut self, to: NodeId) -> Option<Datagram> {
        if self.introduced.len() >= MAX_MEMBERS {
            self.introduced.clear();
        }
        if !self.introduced.insert(to) {
            return None;
        }
        let mut message = Draft::new(None);
        // Without an age, for which the time would matter.
        message.push(self.update_about_self(Time::default()), MAX_MESSAGE);
        let bytes = message.finish();
        Some(Datagram { to, bytes })
    }

    /// Asks a node that is no member, but sends messages, for its list, which has its record.
    pub(crate) fn meet(&mut self, now: Time, node: NodeId) {
        let is_asked = self.asked.get(&node).is_some_and(|it| it.until > now);
        if !is_asked && !self.has_left {
            self.send_sync(now, node, 0);
        }
    }

    /// Handles a message that could not be delivered.
    pub fn undelivered(&mut self, now: Time, to: NodeId) {
        self.newcomers.remove(&to);
        self.introduced.remove(&to);
        self.probe_now(now, to);
    }

    /// Records that a node was heard from. If others have named it before, it becomes a member.
    fn prove(&mut self, now: Time, node: NodeId) {
        let newcomer = self.newcomers.remove(&node);
        self.admit(now, newcomer);
        if self.get(&node).is_some() {
            self.contacts.heard(node);
        }
        if self.takes_unprobed() {
            let waiting = self.newcomers.take_all();
            self.admit(now, waiting);
        }
    }

    /// Makes nodes that others have named members, with the time at which they were first named.
    fn admit(&mut self, now: Time, newcomers: impl IntoIterator<Item = (Claim, Time)>) {
        for (mut claim, first_named) in newcomers {
            if self.has_room_for(&claim.member.id) {
                self.limit_age(&mut claim.member, first_named);
                self.learn_newer(now, claim, Source::Gossip);
            }
        }
    }

    /// Probes a member at once, for example because it is unreachable.
    pub fn probe_now(&mut self, now: Time, target: NodeId) {
        self.probe(now, target, None);
    }

    /// Probes a member, with an update for it.
    fn probe(&mut self, now: Time, target: NodeId, update: Option<MemberUpdate>) {
        let entry = self.roster.get_live(&target);
        let Some(entry) = entry.filter(|entry| entry.member.id != self.me().id) else {
            return;
        };
        let incarnation = entry.member.incarnation;
        if !self.contacts.admits(now, &target) {
            return;
        }
        if let Some(number) = self.probes.begin(now, target, incarnation) {
            let probe = Probe {
                number,
                ..Probe::default()
            };
            let mut message = Draft::new(Some(Kind::Ping(probe)));
            update.map(|update| message.push(update, MAX_MESSAGE));
            self.send(now, target, message);
        }
    }

    /// Answers a ping, or passes it on to the member that the sender wants to be probed.
    fn answer_ping(&mut self, now: Time, from: NodeId, mut probe: Probe) {
        match node(&probe.target).filter(|target| *target != self.me().id) {
            None => self.send(now, from, Draft::new(Some(Kind::Ack(probe)))),
            Some(target) if self.may_pass_on(now, &from, &target) => {
                probe.origin = node_field(Some(from));
                self.send(now, target, Draft::new(Some(Kind::Ping(probe))));
            }
            Some(_) => {}
        }
    }

    /// Ends a probe, or passes the answer on to the node that asked for help.
    fn take_ack(&mut self, now: Time, from: NodeId, mut probe: Probe) {
        match node(&probe.origin) {
            None => {
                let target = node(&probe.target).unwrap_or(from);
                if self.probes.answered(from, target, probe.number) {
                    self.clear_suspicion(now, target);
                }
            }
            Some(origin) if origin != self.me().id && self.may_pass_on(now, &from, &origin) => {
                probe.target = node_field(Some(from));
                probe.origin.clear();
                self.send(now, origin, Draft::new(Some(Kind::Ack(probe))));
            }
            Some(_) => {}
        }
    }

    /// Whether a message of another node may be passed on to this one. Members help each other only, at a bounded rate.
    fn may_pass_on(&mut self, now: Time, from: &NodeId, to: &NodeId) -> bool {
        let are_members = self.get(from).is_some() && self.roster.get(to).is_some();
        are_members && self.contacts.admits(now, to) && self.contacts.helps(now)
    }

    /// Sends a message with any claim about `to` that it should refute, and with some updates.
    fn send(&mut self, now: Time, to: NodeId, mut message: Draft) {
        let about_it = self.roster.get(&to);
        if let Some(entry) = about_it.filter(|entry| entry.status != Status::Alive) {
            message.push(entry.update(now), MAX_MESSAGE);
        }
        self.add_rumors(now, &mut message, 1, PIGGYBACK);
        self.send_to_all([to], message);
    }

    fn send_to_all(&mut self, targets: impl IntoIterator<Item = NodeId>, message: Draft) {
        let bytes = message.finish();
        let to_each = |to| Datagram {
            to,
            bytes: bytes.clone(),
        };
        self.datagrams.extend(targets.into_iter().map(to_each));
    }

    fn add_rumors(&mut self, now: Time, message: &mut Draft, times: u8, limit: usize) {
        let copies = timing::copies(self.len());
        let roster = &self.roster;
        self.rumors.tell(times, copies, |id| {
            let update = roster.get(&id).map(|entry| entry.update(now));
            // A member forgotten meanwhile needs no update.
            update.is_none_or(|update| message.push(update, limit))
        });
    }
}
