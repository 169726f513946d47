//! The real state machine of each node: [`Node`]s with their own lists of members, or [`Coordinator`]s that share one.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use flights::members::{Change, Contact, Member, Signature, Signatures};
use flights::slots::{Owners, Scope, Slot, SlotChange, Slots};
use flights::{
    Born, Coordinator, Decision, Event, HANDOVER, Key, LinkTest, Node, NodeId, PullProgress,
    Received, RequestId, SourceRequest, Time, UNREACHABLE, View,
};

/// The id of a node, by its number.
pub fn id(node: u32, seed: u64) -> NodeId {
    let mut id = [7; 32];
    id[..4].copy_from_slice(&node.to_le_bytes());
    id[8..16].copy_from_slice(&seed.to_le_bytes());
    NodeId(id)
}

/// No node of the simulator forges the record of another one.
#[derive(Debug)]
struct Unsigned;

impl Signatures for Unsigned {
    fn sign(&self, _: &[u8]) -> Signature {
        [0; 64]
    }

    fn verify(&self, _: &NodeId, _: &[u8], _: &Signature) -> bool {
        true
    }
}

/// The number of a node.
pub fn number(id: &NodeId) -> u32 {
    u32::from_le_bytes([id.0[0], id.0[1], id.0[2], id.0[3]])
}

/// The members that all coordinators see, at the same moment.
#[derive(Debug)]
pub struct SharedMembership {
    slots: Slots,
    is_member: Vec<bool>,
    members: usize,
    /// When a slot got another arbiter.
    moved: BTreeMap<Slot, Time>,
}

impl SharedMembership {
    /// Nodes that have been members for a while.
    pub fn new(nodes: u32, seed: u64) -> Self {
        let joined = (0..nodes).map(|node| {
            Change::Joined(Member {
                id: id(node, seed),
                contact: Contact::default().into(),
                incarnation: 0,
                born: Born::from_age(Time(0), Duration::from_secs(3600)),
            })
        });
        let mut slots = Slots::new();
        slots.update(Time(0), &joined.collect::<Vec<_>>());
        slots.take_changes();
        Self {
            slots,
            is_member: vec![true; nodes as usize],
            members: nodes as usize,
            moved: BTreeMap::new(),
        }
    }

    /// Removes dead members. Returns the changes of owners. (The number of shards must not change.)
    pub fn left(&mut self, now: Time, nodes: &[NodeId]) -> Vec<SlotChange> {
        for node in nodes {
            self.is_member[number(node) as usize] = false;
        }
        self.members -= nodes.len();
        let changes: Vec<_> = nodes.iter().map(|node| Change::Left(*node)).collect();
        self.slots.update(now, &changes);
        let changes = self.slots.take_changes();
        for change in &changes {
            if change.before.arbiter() != change.after.arbiter() {
                self.moved.insert(change.slot, now);
            }
        }
        changes
    }

    /// The arbiters of a key in all shards.
    pub fn arbiters(&self, key: Key) -> impl Iterator<Item = NodeId> {
        let slot = Slot::of(&key.0);
        let scopes = self.slots.scopes();
        scopes.filter_map(move |scope| self.slots.owners(scope, slot).arbiter())
    }
}

/// What one coordinator sees.
struct ClusterView<'a> {
    me: NodeId,
    now: Time,
    membership: &'a SharedMembership,
    unreachable: &'a BTreeMap<NodeId, Time>,
}

impl View for ClusterView<'_> {
    fn me(&self) -> NodeId {
        self.me
    }

    fn members(&self) -> usize {
        self.membership.members
    }

    fn is_member(&self, id: &NodeId) -> bool {
        self.membership.is_member[number(id) as usize]
    }

    fn owners(&self, scope: Scope, slot: Slot) -> Owners {
        let owners = self.membership.slots.owners(scope, slot);
        owners.filter_by(|owner| !self.unreachable.contains_key(owner))
    }

    fn shard_count(&self) -> u64 {
        self.membership.slots.shard_count()
    }

    fn previous_arbiter(&self, slot: Slot) -> Option<NodeId> {
        let moved = self.membership.moved.get(&slot)?;
        let before = self.membership.slots.previous_arbiter(slot)?;
        (self.now.since(*moved) < HANDOVER).then_some(before)
    }

    fn has_joined(&self) -> bool {
        true
    }
}

#[derive(Debug)]
pub struct Sharer {
    me: NodeId,
    coordinator: Coordinator,
    unreachable: BTreeMap<NodeId, Time>,
}

#[derive(Debug)]
pub enum StateMachine {
    Own(Box<Node>),
    Shares(Box<Sharer>),
}

impl Sharer {
    fn parts<'a>(
        &'a mut self,
        now: Time,
        membership: &'a SharedMembership,
    ) -> (&'a mut Coordinator, ClusterView<'a>) {
        let view = ClusterView {
            me: self.me,
            now,
            membership,
            unreachable: &self.unreachable,
        };
        (&mut self.coordinator, view)
    }
}

impl StateMachine {
    pub fn own(now: Time, me: NodeId, seed: u64) -> Self {
        Self::Own(Box::new(Node::new(
            now,
            me,
            Contact::default(),
            seed,
            Box::new(Unsigned),
        )))
    }

    pub fn sharing(me: NodeId, seed: u64) -> Self {
        Self::Shares(Box::new(Sharer {
            me,
            coordinator: Coordinator::new(me, seed),
            unreachable: BTreeMap::new(),
        }))
    }

    pub fn join(&mut self, now: Time, seed: NodeId) {
        if let Self::Own(node) = self {
            node.join(now, [seed]);
        }
    }

    pub fn hold(&mut self, now: Time, keys: &[Key]) {
        match self {
            Self::Own(node) => node.hold(now, keys),
            Self::Shares(sharer) => sharer.coordinator.hold(now, keys),
        }
    }

    pub fn request_source(
        &mut self,
        now: Time,
        wanted: SourceRequest,
        membership: &SharedMembership,
    ) -> RequestId {
        match self {
            Self::Own(node) => node.request_source(now, wanted),
            Self::Shares(sharer) => {
                let (coordinator, view) = sharer.parts(now, membership);
                coordinator.request_source(now, wanted, &view)
            }
        }
    }

    pub fn cancel(&mut self, now: Time, request: RequestId, membership: &SharedMembership) {
        match self {
            Self::Own(node) => node.cancel(now, request),
            Self::Shares(sharer) => {
                let (coordinator, view) = sharer.parts(now, membership);
                coordinator.cancel(now, request, &view);
            }
        }
    }

    pub fn report(
        &mut self,
        now: Time,
        key: Key,
        progress: PullProgress,
        membership: &SharedMembership,
    ) {
        match self {
            Self::Own(node) => node.report(now, key, progress),
            Self::Shares(sharer) => {
                let (coordinator, view) = sharer.parts(now, membership);
                coordinator.report(now, key, progress, &view);
            }
        }
    }

    pub fn receive(
        &mut self,
        now: Time,
        from: NodeId,
        datagram: &[u8],
        membership: &SharedMembership,
    ) {
        let result = match self {
            Self::Own(node) => node.receive(now, from, datagram),
            Self::Shares(sharer) => {
                sharer.unreachable.remove(&from);
                let (coordinator, view) = sharer.parts(now, membership);
                coordinator.receive(now, from, datagram, &view)
            }
        };
        debug_assert!(result.is_ok(), "nodes understand each other");
    }

    pub fn undelivered(&mut self, now: Time, to: NodeId, membership: &SharedMembership) {
        match self {
            Self::Own(node) => node.undelivered(now, to),
            Self::Shares(sharer) => {
                sharer.unreachable.insert(to, now.after(UNREACHABLE));
                let (coordinator, view) = sharer.parts(now, membership);
                coordinator.undelivered(now, to, &view);
            }
        }
    }

    /// Handles changes of the shared members.
    pub fn left(
        &mut self,
        now: Time,
        nodes: &[NodeId],
        moves: &[SlotChange],
        membership: &SharedMembership,
    ) {
        if let Self::Shares(sharer) = self {
            let (coordinator, view) = sharer.parts(now, membership);
            coordinator.owners_changed(now, moves, &view);
            for node in nodes {
                coordinator.member_left(now, *node, &view);
            }
        }
    }

    pub fn tick(&mut self, now: Time, membership: &SharedMembership) {
        match self {
            Self::Own(node) => node.tick(now),
            Self::Shares(sharer) => {
                sharer.unreachable.retain(|_, until| *until > now);
                let (coordinator, view) = sharer.parts(now, membership);
                coordinator.tick(now, &view);
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Time> {
        match self {
            Self::Own(node) => Some(node.next_deadline()),
            Self::Shares(sharer) => {
                let own = sharer.unreachable.values().copied();
                own.chain(sharer.coordinator.next_deadline()).min()
            }
        }
    }

    pub fn take_datagrams(&mut self) -> Vec<(NodeId, Bytes)> {
        match self {
            Self::Own(node) => {
                let datagrams = node.take_datagrams().into_iter();
                datagrams.map(|d| (d.to, d.bytes)).collect()
            }
            Self::Shares(sharer) => sharer.coordinator.take_datagrams(),
        }
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        match self {
            Self::Own(node) => node.take_events(),
            Self::Shares(sharer) => sharer.coordinator.take_events(),
        }
    }

    pub fn observe(&mut self, now: Time, rates: &Received, membership: &SharedMembership) {
        match self {
            Self::Own(node) => node.observe(now, rates),
            Self::Shares(sharer) => {
                let (coordinator, view) = sharer.parts(now, membership);
                coordinator.observe(now, rates, &view);
            }
        }
    }

    pub fn link_tested(&mut self, now: Time, test: LinkTest, membership: &SharedMembership) {
        match self {
            Self::Own(node) => node.link_tested(now, test),
            Self::Shares(sharer) => {
                let (coordinator, view) = sharer.parts(now, membership);
                coordinator.link_tested(now, test, &view);
            }
        }
    }

    pub fn bandwidth(&self) -> Option<u64> {
        match self {
            Self::Own(node) => node.bandwidth(),
            Self::Shares(sharer) => sharer.coordinator.bandwidth(),
        }
    }

    pub fn take_decisions(&mut self) -> Vec<(RequestId, Decision)> {
        match self {
            Self::Own(node) => node.take_decisions(),
            Self::Shares(sharer) => sharer.coordinator.take_decisions(),
        }
    }
}
