//! The real state machine of each node: [`Node`]s with their own lists of members, or [`Coordinator`]s that share one.

use std::time::Duration;

use bytes::Bytes;
use flights::members::{Change, Contact, Member, Signature, Signatures};
use flights::slots::{Owners, Scope, Slot, Slots};
use flights::{
    Born, Coordinator, Decision, Event, Key, LinkTest, Node, NodeId, PullProgress, Received,
    RequestId, SourceRequest, Time, View,
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

/// The members that all coordinators see. None of them dies.
#[derive(Debug)]
pub struct SharedMembership {
    slots: Slots,
    members: usize,
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
            members: nodes as usize,
        }
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
    membership: &'a SharedMembership,
}

impl View for ClusterView<'_> {
    fn me(&self) -> NodeId {
        self.me
    }

    fn members(&self) -> usize {
        self.membership.members
    }

    fn is_member(&self, _: &NodeId) -> bool {
        true
    }

    fn owners(&self, scope: Scope, slot: Slot) -> Owners {
        self.membership.slots.owners(scope, slot)
    }

    fn shard_count(&self) -> u64 {
        self.membership.slots.shard_count()
    }

    fn previous_arbiter(&self, _: Slot) -> Option<NodeId> {
        None
    }

    fn has_joined(&self) -> bool {
        true
    }
}

#[derive(Debug)]
pub struct Sharer {
    me: NodeId,
    coordinator: Coordinator,
}

#[derive(Debug)]
pub enum StateMachine {
    Own(Box<Node>),
    Shares(Box<Sharer>),
}

impl Sharer {
    fn parts<'a>(
        &'a mut self,
        membership: &'a SharedMembership,
    ) -> (&'a mut Coordinator, ClusterView<'a>) {
        let view = ClusterView {
            me: self.me,
            membership,
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
                let (coordinator, view) = sharer.parts(membership);
                coordinator.request_source(now, wanted, &view)
            }
        }
    }

    pub fn cancel(&mut self, now: Time, request: RequestId, membership: &SharedMembership) {
        match self {
            Self::Own(node) => node.cancel(now, request),
            Self::Shares(sharer) => {
                let (coordinator, view) = sharer.parts(membership);
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
                let (coordinator, view) = sharer.parts(membership);
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
                let (coordinator, view) = sharer.parts(membership);
                coordinator.receive(now, from, datagram, &view)
            }
        };
        debug_assert!(result.is_ok(), "nodes understand each other");
    }

    /// Handles a node that cannot be reached. Those that share a list always can.
    pub fn undelivered(&mut self, now: Time, to: NodeId) {
        if let Self::Own(node) = self {
            node.undelivered(now, to);
        }
    }

    pub fn tick(&mut self, now: Time, membership: &SharedMembership) {
        match self {
            Self::Own(node) => node.tick(now),
            Self::Shares(sharer) => {
                let (coordinator, view) = sharer.parts(membership);
                coordinator.tick(now, &view);
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Time> {
        match self {
            Self::Own(node) => Some(node.next_deadline()),
            Self::Shares(sharer) => sharer.coordinator.next_deadline(),
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
                let (coordinator, view) = sharer.parts(membership);
                coordinator.observe(now, rates, &view);
            }
        }
    }

    pub fn link_tested(&mut self, now: Time, test: LinkTest, membership: &SharedMembership) {
        match self {
            Self::Own(node) => node.link_tested(now, test),
            Self::Shares(sharer) => {
                let (coordinator, view) = sharer.parts(membership);
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
