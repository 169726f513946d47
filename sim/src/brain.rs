//! The real state machine of each node: [`Node`]s with their own lists of members, or [`Desk`]s that share one.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use flights::members::{Change, Contact, Member};
use flights::slots::{Owners, Realm, Slot, SlotChange};
use flights::{Born, Desk, Key, News, Node, NodeId, Outcome, SeekId, Time, View, Wanted};

/// How long a member that could not be reached is passed over. As in `flights::Node`.
const UNREACHABLE: Duration = Duration::from_secs(5);
/// How long a new arbiter asks the one before it. As in `flights::Node`.
const HANDOVER: Duration = Duration::from_secs(3);

/// The identity of a node by its number.
pub fn id(node: u32, seed: u64) -> NodeId {
    let mut id = [7; 32];
    id[..4].copy_from_slice(&node.to_le_bytes());
    id[8..16].copy_from_slice(&seed.to_le_bytes());
    NodeId(id)
}

/// The number of a node.
pub fn number(id: &NodeId) -> u32 {
    u32::from_le_bytes([id.0[0], id.0[1], id.0[2], id.0[3]])
}

/// The members as all desks see them, at the same moment.
#[derive(Debug)]
pub struct Directory {
    /// As the nodes of each district see the owners, by its number.
    realms: BTreeMap<u64, Realm>,
    is_member: Vec<bool>,
    members: usize,
    /// When a slot of a district got another arbiter.
    moved: BTreeMap<(u64, Slot), Time>,
}

/// What moved in one district.
#[derive(Debug, Default)]
pub struct Moves {
    owners: Vec<SlotChange>,
    roots: Vec<SlotChange>,
}

impl Directory {
    /// Of nodes that have been there for a while.
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
        let mut realms: BTreeMap<u64, Realm> = BTreeMap::new();
        for node in (0..nodes).map(|node| id(node, seed)) {
            let known = realms.values().next();
            if known.is_none_or(|realm| !realms.contains_key(&realm.district(&node))) {
                let mut realm = Realm::new(node);
                realm.update(Time(0), &joined);
                realm.take_changes();
                realm.take_root_changes();
                realms.insert(realm.district(&node), realm);
            }
        }
        Self {
            realms,
            is_member: vec![true; nodes as usize],
            members: nodes as usize,
            moved: BTreeMap::new(),
        }
    }

    /// These members are dead. Returns what moved in each district. (So many do not die that there are fewer.)
    pub fn left(&mut self, now: Time, nodes: &[NodeId]) -> BTreeMap<u64, Moves> {
        for node in nodes {
            self.is_member[number(node) as usize] = false;
        }
        self.members -= nodes.len();
        let changes: Vec<_> = nodes.iter().map(|node| Change::Left(*node)).collect();
        let mut all = BTreeMap::new();
        for (district, realm) in &mut self.realms {
            realm.update(now, &changes);
            let owners = realm.take_changes();
            for change in &owners {
                if change.before.arbiter() != change.after.arbiter() {
                    self.moved.insert((*district, change.slot), now);
                }
            }
            let roots = realm.take_root_changes();
            all.insert(*district, Moves { owners, roots });
        }
        all
    }

    /// The arbiters of a key in all districts.
    pub fn arbiters(&self, key: Key) -> impl Iterator<Item = NodeId> {
        let slot = Slot::of(&key.0);
        self.realms
            .values()
            .filter_map(move |realm| realm.owners(slot).arbiter())
    }

    /// The number of a node's district.
    pub fn district(&self, node: &NodeId) -> u64 {
        self.realms
            .values()
            .next()
            .map_or(0, |realm| realm.district(node))
    }

    fn realm(&self, node: &NodeId) -> &Realm {
        &self.realms[&self.district(node)]
    }
}

/// What one desk sees.
struct Sight<'a> {
    me: NodeId,
    now: Time,
    directory: &'a Directory,
    unreachable: &'a BTreeMap<NodeId, Time>,
}

impl View for Sight<'_> {
    fn me(&self) -> NodeId {
        self.me
    }

    fn members(&self) -> usize {
        self.directory.members
    }

    fn is_member(&self, id: &NodeId) -> bool {
        self.directory.is_member[number(id) as usize]
    }

    fn owners(&self, slot: Slot) -> Owners {
        let owners = self.directory.realm(&self.me).owners(slot);
        owners.who(|owner| !self.unreachable.contains_key(owner))
    }

    fn roots(&self, slot: Slot) -> Owners {
        let roots = self.directory.realm(&self.me).roots(slot);
        roots.who(|root| !self.unreachable.contains_key(root))
    }

    fn districts(&self) -> u64 {
        self.directory.realm(&self.me).districts()
    }

    fn district(&self, id: &NodeId) -> u64 {
        self.directory.district(id)
    }

    fn before(&self, slot: Slot) -> Option<NodeId> {
        let district = self.directory.district(&self.me);
        let moved = self.directory.moved.get(&(district, slot))?;
        let before = self.directory.realm(&self.me).previous_arbiter(slot)?;
        (self.now.since(*moved) < HANDOVER).then_some(before)
    }

    fn has_joined(&self) -> bool {
        true
    }
}

#[derive(Debug)]
pub struct Sharer {
    me: NodeId,
    desk: Desk,
    unreachable: BTreeMap<NodeId, Time>,
}

#[derive(Debug)]
pub enum Brain {
    Own(Box<Node>),
    Shares(Box<Sharer>),
}

impl Sharer {
    fn parts<'a>(&'a mut self, now: Time, directory: &'a Directory) -> (&'a mut Desk, Sight<'a>) {
        let view = Sight {
            me: self.me,
            now,
            directory,
            unreachable: &self.unreachable,
        };
        (&mut self.desk, view)
    }
}

impl Brain {
    pub fn own(now: Time, me: NodeId, seed: u64) -> Self {
        Self::Own(Box::new(Node::new(now, me, Contact::default(), seed)))
    }

    pub fn sharing(me: NodeId, seed: u64) -> Self {
        Self::Shares(Box::new(Sharer {
            me,
            desk: Desk::new(me, seed),
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
            Self::Shares(sharer) => sharer.desk.hold(now, keys),
        }
    }

    pub fn seek(&mut self, now: Time, wanted: Wanted, directory: &Directory) -> SeekId {
        match self {
            Self::Own(node) => node.seek(now, wanted),
            Self::Shares(sharer) => {
                let (desk, view) = sharer.parts(now, directory);
                desk.seek(now, wanted, &view)
            }
        }
    }

    pub fn cancel(&mut self, now: Time, seek: SeekId, directory: &Directory) {
        match self {
            Self::Own(node) => node.cancel(now, seek),
            Self::Shares(sharer) => {
                let (desk, view) = sharer.parts(now, directory);
                desk.cancel(now, seek, &view);
            }
        }
    }

    pub fn report(&mut self, now: Time, key: Key, news: News, directory: &Directory) {
        match self {
            Self::Own(node) => node.report(now, key, news),
            Self::Shares(sharer) => {
                let (desk, view) = sharer.parts(now, directory);
                desk.report(now, key, news, &view);
            }
        }
    }

    pub fn receive(&mut self, now: Time, from: NodeId, datagram: &[u8], directory: &Directory) {
        let result = match self {
            Self::Own(node) => node.receive(now, from, datagram),
            Self::Shares(sharer) => {
                sharer.unreachable.remove(&from);
                let (desk, view) = sharer.parts(now, directory);
                desk.receive(now, from, datagram, &view)
            }
        };
        debug_assert!(result.is_ok(), "nodes understand each other");
    }

    pub fn undelivered(&mut self, now: Time, to: NodeId, directory: &Directory) {
        match self {
            Self::Own(node) => node.undelivered(now, to),
            Self::Shares(sharer) => {
                sharer.unreachable.insert(to, now.after(UNREACHABLE));
                let (desk, view) = sharer.parts(now, directory);
                desk.undelivered(now, to, &view);
            }
        }
    }

    /// The members in common have changed.
    pub fn left(
        &mut self,
        now: Time,
        nodes: &[NodeId],
        moves: &BTreeMap<u64, Moves>,
        directory: &Directory,
    ) {
        if let Self::Shares(sharer) = self {
            let moves = moves.get(&directory.district(&sharer.me));
            let (desk, view) = sharer.parts(now, directory);
            if let Some(moves) = moves {
                desk.moved(now, &moves.owners, &view);
                desk.roots_moved(now, &moves.roots, &view);
            }
            for node in nodes {
                desk.left(now, *node, &view);
            }
        }
    }

    pub fn tick(&mut self, now: Time, directory: &Directory) {
        match self {
            Self::Own(node) => node.tick(now),
            Self::Shares(sharer) => {
                sharer.unreachable.retain(|_, until| *until > now);
                let (desk, view) = sharer.parts(now, directory);
                desk.tick(now, &view);
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Time> {
        match self {
            Self::Own(node) => Some(node.next_deadline()),
            Self::Shares(sharer) => {
                let own = sharer.unreachable.values().copied();
                own.chain(sharer.desk.next_deadline()).min()
            }
        }
    }

    pub fn take_datagrams(&mut self) -> Vec<(NodeId, Bytes)> {
        match self {
            Self::Own(node) => {
                let datagrams = node.take_datagrams().into_iter();
                datagrams.map(|d| (d.to, d.bytes)).collect()
            }
            Self::Shares(sharer) => sharer.desk.take_datagrams(),
        }
    }

    pub fn take_outrun(&mut self) -> Option<u64> {
        match self {
            Self::Own(node) => node.take_outrun(),
            Self::Shares(sharer) => sharer.desk.take_outrun(),
        }
    }

    pub fn lag(&mut self, now: Time, lags: bool, directory: &Directory) {
        match self {
            Self::Own(node) => node.lag(now, lags),
            Self::Shares(sharer) => {
                let (desk, view) = sharer.parts(now, directory);
                desk.lag(now, lags, &view);
            }
        }
    }

    pub fn take_outcomes(&mut self) -> Vec<(SeekId, Outcome)> {
        match self {
            Self::Own(node) => node.take_outcomes(),
            Self::Shares(sharer) => sharer.desk.take_outcomes(),
        }
    }
}
