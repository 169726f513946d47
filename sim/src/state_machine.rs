//! The real state machine of each node: [`Node`]s with their own lists of members, or [`Coordinator`]s that share one.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use flights::members::{Change, Contact, Member, Signature, Signatures};
use flights::slots::{Owners, ShardMap, Slot, SlotChange};
use flights::{
    Born, Coordinator, Decision, Event, HANDOVER, Key, LinkTest, Node, NodeId, PullProgress,
    ReceiveRates, RequestId, SourceRequest, Time, UNREACHABLE, View,
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

/// The members as all coordinators see them, at the same moment.
#[derive(Debug)]
pub struct SharedMembership {
    /// The owners as seen in each shard, by its number.
    shard_maps: BTreeMap<u64, ShardMap>,
    is_member: Vec<bool>,
    members: usize,
    /// When a slot of a shard got another arbiter.
    moved: BTreeMap<(u64, Slot), Time>,
}

/// The changes of owners in one shard.
#[derive(Debug, Default)]
pub struct Moves {
    owners: Vec<SlotChange>,
    roots: Vec<SlotChange>,
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
        let joined: Vec<_> = joined.collect();
        let mut shard_maps: BTreeMap<u64, ShardMap> = BTreeMap::new();
        for node in (0..nodes).map(|node| id(node, seed)) {
            let known = shard_maps.values().next();
            if known.is_none_or(|shard_map| !shard_maps.contains_key(&shard_map.shard_of(&node))) {
                let mut shard_map = ShardMap::new(node);
                shard_map.update(Time(0), &joined);
                shard_map.take_changes();
                shard_map.take_global_changes();
                shard_maps.insert(shard_map.shard_of(&node), shard_map);
            }
        }
        Self {
            shard_maps,
            is_member: vec![true; nodes as usize],
            members: nodes as usize,
            moved: BTreeMap::new(),
        }
    }

    /// Removes dead members. Returns the changes in each shard. (The number of shards must not change.)
    pub fn left(&mut self, now: Time, nodes: &[NodeId]) -> BTreeMap<u64, Moves> {
        for node in nodes {
            self.is_member[number(node) as usize] = false;
        }
        self.members -= nodes.len();
        let changes: Vec<_> = nodes.iter().map(|node| Change::Left(*node)).collect();
        let mut all = BTreeMap::new();
        for (shard, shard_map) in &mut self.shard_maps {
            shard_map.update(now, &changes);
            let owners = shard_map.take_changes();
            for change in &owners {
                if change.before.arbiter() != change.after.arbiter() {
                    self.moved.insert((*shard, change.slot), now);
                }
            }
            let roots = shard_map.take_global_changes();
            all.insert(*shard, Moves { owners, roots });
        }
        all
    }

    /// The arbiters of a key in all shards.
    pub fn arbiters(&self, key: Key) -> impl Iterator<Item = NodeId> {
        let slot = Slot::of(&key.0);
        self.shard_maps
            .values()
            .filter_map(move |shard_map| shard_map.owners(slot).arbiter())
    }

    /// The number of a node's shard.
    pub fn shard_of(&self, node: &NodeId) -> u64 {
        self.shard_maps
            .values()
            .next()
            .map_or(0, |shard_map| shard_map.shard_of(node))
    }

    fn shard_map(&self, node: &NodeId) -> &ShardMap {
        &self.shard_maps[&self.shard_of(node)]
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

    fn owners(&self, slot: Slot) -> Owners {
        let owners = self.membership.shard_map(&self.me).owners(slot);
        owners.filter_by(|owner| !self.unreachable.contains_key(owner))
    }

    fn global_owners(&self, slot: Slot) -> Owners {
        let roots = self.membership.shard_map(&self.me).global_owners(slot);
        roots.filter_by(|root| !self.unreachable.contains_key(root))
    }

    fn shard_count(&self) -> u64 {
        self.membership.shard_map(&self.me).shard_count()
    }

    fn shard_of(&self, id: &NodeId) -> u64 {
        self.membership.shard_of(id)
    }

    fn previous_arbiter(&self, slot: Slot) -> Option<NodeId> {
        let shard = self.membership.shard_of(&self.me);
        let moved = self.membership.moved.get(&(shard, slot))?;
        let before = self.membership.shard_map(&self.me).previous_arbiter(slot)?;
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

    /// The members in common have changed.
    pub fn left(
        &mut self,
        now: Time,
        nodes: &[NodeId],
        moves: &BTreeMap<u64, Moves>,
        membership: &SharedMembership,
    ) {
        if let Self::Shares(sharer) = self {
            let moves = moves.get(&membership.shard_of(&sharer.me));
            let (coordinator, view) = sharer.parts(now, membership);
            if let Some(moves) = moves {
                coordinator.owners_changed(now, &moves.owners, &view);
                coordinator.global_owners_changed(now, &moves.roots, &view);
            }
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

    pub fn observe(&mut self, now: Time, rates: &ReceiveRates, membership: &SharedMembership) {
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
