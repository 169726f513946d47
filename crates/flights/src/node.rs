//! A node of the cluster: who is there, who owns what, and this node's part in flights.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::desk::Desk;
use crate::members::{Change, Contact, Datagram, Members};
use crate::pulls::News;
use crate::seeks::{Outcome, SeekId, Wanted};
use crate::slots::{Owners, Realm, Slot};
use crate::view::View;
use crate::wire::Message;
use crate::{DecodeError, Key, NodeId, Time};

/// A member that could not be reached is passed over as an owner for so long, unless it is heard of.
const UNREACHABLE: Duration = Duration::from_secs(5);
/// A member that others call silent and that does not answer for so long is passed over too.
const DOUBT: Duration = Duration::from_millis(500);
/// An arbiter new to a slot passes on for so long what it does not know to the one before it.
const HANDOVER: Duration = Duration::from_secs(3);

/// All rules of one node. After each call take the datagrams and outcomes, and call [`Node::tick`] at
/// [`Node::next_deadline`].
#[derive(Debug)]
pub struct Node {
    members: Members,
    slots: Realm,
    desk: Desk,
    /// Passed over as owners, until when.
    unreachable: BTreeMap<NodeId, Time>,
    /// To be passed over, unless they are heard of until then.
    doubted: BTreeMap<NodeId, Time>,
    /// When slots got another arbiter.
    moved: BTreeMap<Slot, Time>,
    has_joined: bool,
    datagrams: Vec<Datagram>,
}

/// The cluster as this node sees it.
struct Sight<'a> {
    members: &'a Members,
    slots: &'a Realm,
    unreachable: &'a BTreeMap<NodeId, Time>,
    moved: &'a BTreeMap<Slot, Time>,
}

impl View for Sight<'_> {
    fn me(&self) -> NodeId {
        self.members.me().id
    }

    fn members(&self) -> usize {
        self.members.len()
    }

    fn is_member(&self, id: &NodeId) -> bool {
        self.members.get(id).is_some()
    }

    fn owners(&self, slot: Slot) -> Owners {
        let owners = self.slots.owners(slot);
        owners.who(|owner| !self.unreachable.contains_key(owner))
    }

    fn roots(&self, slot: Slot) -> Owners {
        let roots = self.slots.roots(slot);
        roots.who(|root| !self.unreachable.contains_key(root))
    }

    fn districts(&self) -> u64 {
        self.slots.districts()
    }

    fn district(&self, id: &NodeId) -> u64 {
        self.slots.district(id)
    }

    fn before(&self, slot: Slot) -> Option<NodeId> {
        self.moved.get(&slot)?;
        let before = self.slots.previous_arbiter(slot);
        before.filter(|before| !self.unreachable.contains_key(before))
    }

    fn has_joined(&self) -> bool {
        self.members.has_joined()
    }
}

/// The view and the desk, borrowed apart.
macro_rules! desk {
    ($node:ident) => {
        (
            &mut $node.desk,
            &Sight {
                members: &$node.members,
                slots: &$node.slots,
                unreachable: &$node.unreachable,
                moved: &$node.moved,
            },
        )
    };
}

impl Node {
    /// A node that knows of nobody yet. `seed` spreads its choices; give each node and each start another one.
    pub fn new(now: Time, id: NodeId, contact: Contact, seed: u64) -> Self {
        let mut node = Self {
            members: Members::new(now, id, contact, seed),
            slots: Realm::new(id),
            desk: Desk::new(id, seed),
            unreachable: BTreeMap::new(),
            doubted: BTreeMap::new(),
            moved: BTreeMap::new(),
            has_joined: false,
            datagrams: Vec::new(),
        };
        node.settle(now);
        node
    }

    /// A node of a cluster with other districts than are usual. See [`Realm::with_districts_of`].
    pub fn with_districts_of(mut self, size: usize) -> Self {
        self.slots = self.slots.with_districts_of(size);
        self
    }

    /// See [`Members::join`].
    pub fn join(&mut self, now: Time, seeds: impl IntoIterator<Item = NodeId>) {
        self.members.join(now, seeds);
        self.settle(now);
    }

    /// See [`Members::set_contact`].
    pub fn set_contact(&mut self, now: Time, contact: Contact) {
        self.members.set_contact(now, contact);
        self.settle(now);
    }

    /// See [`Members::leave`].
    pub fn leave(&mut self) {
        self.members.leave();
        self.flush();
    }

    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Questions that wait for an answer.
    pub fn open_questions(&self) -> usize {
        self.desk.open_questions()
    }

    /// This node holds these keys, complete: others may be told.
    pub fn hold(&mut self, now: Time, keys: &[Key]) {
        self.desk.hold(now, keys);
    }

    /// This node holds these keys no longer.
    pub fn release(&mut self, now: Time, keys: &[Key]) {
        self.desk.release(now, keys);
    }

    /// This node's containerd wants an object: what is it to do? There is an [`Outcome`] in any case, within what the
    /// pull's budget leaves and what upstream usually takes to answer.
    pub fn seek(&mut self, now: Time, wanted: Wanted) -> SeekId {
        let (desk, view) = desk!(self);
        let id = desk.seek(now, wanted, view);
        self.settle(now);
        id
    }

    /// Who has this key complete? The outcome is [`Outcome::Found`], within a second.
    pub fn find(&mut self, now: Time, key: Key) -> SeekId {
        let (desk, view) = desk!(self);
        let id = desk.find(now, key, view);
        self.settle(now);
        id
    }

    /// Nobody waits for this outcome any more, or it came and nothing was begun on the ground of it.
    pub fn cancel(&mut self, now: Time, id: SeekId) {
        let (desk, view) = desk!(self);
        desk.cancel(now, id, view);
        self.settle(now);
    }

    /// How a pull that was sought goes on.
    pub fn report(&mut self, now: Time, key: Key, news: News) {
        let (desk, view) = desk!(self);
        desk.report(now, key, news, view);
        self.settle(now);
    }

    /// Takes a datagram that `from` sent, as the transport has authenticated it.
    ///
    /// # Errors
    /// It cannot be read; nothing has changed.
    pub fn receive(&mut self, now: Time, from: NodeId, datagram: &[u8]) -> Result<(), DecodeError> {
        match Message::decode(datagram)? {
            Message::Members(bytes) => self.members.receive(now, from, &bytes)?,
            message => {
                let (desk, view) = desk!(self);
                desk.accept(now, from, message, view);
            }
        }
        self.unreachable.remove(&from);
        self.doubted.remove(&from);
        self.settle(now);
        Ok(())
    }

    /// A datagram to `to` could not be delivered: it cannot be reached.
    pub fn undelivered(&mut self, now: Time, to: NodeId) {
        self.pass_over(now, to);
        let (desk, view) = desk!(self);
        desk.undelivered(now, to, view);
        self.members.doubt(now, to);
        self.settle(now);
    }

    fn pass_over(&mut self, now: Time, node: NodeId) {
        self.doubted.remove(&node);
        let until = now.after(UNREACHABLE);
        let is_known = self.unreachable.insert(node, until).is_some();
        let (desk, view) = desk!(self);
        let passes_to_me = |slot: Slot| {
            let levels = [
                (view.slots.owners(slot), view.owners(slot)),
                (view.slots.roots(slot), view.roots(slot)),
            ];
            let mut levels = levels.iter();
            levels.any(|(all, can)| all.contains(&node) && can.arbiter() == Some(view.me()))
        };
        if !is_known && Slot::all().any(passes_to_me) {
            desk.takes_over(now);
        }
        desk.silent(now, node, view);
    }

    /// When [`Node::tick`] is to be called next.
    pub fn next_deadline(&self) -> Time {
        let others = [self.slots.next_deadline(), self.desk.next_deadline()];
        let own = self.unreachable.values().chain(self.doubted.values());
        let own = own.copied().chain(others.into_iter().flatten());
        own.fold(self.members.next_deadline(), Time::min)
    }

    /// Does what is due by now.
    pub fn tick(&mut self, now: Time) {
        self.members.tick(now);
        self.unreachable.retain(|_, until| *until > now);
        self.moved.retain(|_, at| now.since(*at) < HANDOVER);
        let silent = self.doubted.iter().filter(|(_, until)| **until <= now);
        for node in silent.map(|(node, _)| *node).collect::<Vec<_>>() {
            self.pass_over(now, node);
        }
        self.settle(now);
        let (desk, view) = desk!(self);
        desk.tick(now, view);
        self.settle(now);
    }

    /// The messages to send, in order.
    pub fn take_datagrams(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.datagrams)
    }

    /// What came of questions.
    pub fn take_outcomes(&mut self) -> Vec<(SeekId, Outcome)> {
        self.desk.take_outcomes()
    }

    /// What a node takes in, in bytes a second, that feeds this one and says that it stays far behind, since this was
    /// last asked. If this node takes in far less in all, it [lags](Node::lag); else it has better sources elsewhere.
    pub fn take_outrun(&mut self) -> Option<u64> {
        self.desk.take_outrun()
    }

    /// Others are held up behind this node, or are not any more: until it says so, it feeds nobody who can be fed otherwise.
    /// The caller ends what it passes on of objects that are not complete here, so that those who take it go on elsewhere.
    pub fn lag(&mut self, now: Time, lags: bool) {
        let (desk, view) = desk!(self);
        desk.lag(now, lags, view);
        self.settle(now);
    }

    /// Draws the conclusions of what changed about the members.
    fn settle(&mut self, now: Time) {
        let changes = self.members.take_changes();
        let is_due = self.slots.next_deadline().is_some_and(|at| at <= now);
        if !changes.is_empty() || is_due {
            self.slots.update(now, &changes);
        }
        let moves = self.slots.take_changes();
        for change in &moves {
            // A slot without an arbiter had nothing to hand over.
            if change.before.arbiter().is_some()
                && change.before.arbiter() != change.after.arbiter()
            {
                self.moved.insert(change.slot, now);
            }
        }
        let root_moves = self.slots.take_root_changes();
        let has_joined = self.members.has_joined();
        let joins = has_joined && !self.has_joined;
        self.has_joined = has_joined;
        let (desk, view) = desk!(self);
        if !moves.is_empty() {
            desk.moved(now, &moves, view);
        }
        if !root_moves.is_empty() {
            desk.roots_moved(now, &root_moves, view);
        }
        for change in &changes {
            if let Change::Left(node) = change {
                desk.left(now, *node, view);
            }
        }
        if joins {
            desk.joined(now, view);
        }
        for node in desk.take_doubted() {
            if !self.unreachable.contains_key(&node) && !self.doubted.contains_key(&node) {
                self.doubted.insert(node, now.after(DOUBT));
                self.members.doubt(now, node);
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        for datagram in self.members.take_datagrams() {
            let bytes = Message::Members(datagram.bytes).encode();
            self.datagrams.push(Datagram {
                to: datagram.to,
                bytes,
            });
        }
        let others = self.desk.take_datagrams();
        let others = others.into_iter().map(|(to, bytes)| Datagram { to, bytes });
        self.datagrams.extend(others);
    }
}
