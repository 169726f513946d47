//! Whole nodes in one process: virtual time, a clock for each node, and a network that loses, doubles, delays and
//! reorders messages, all from a seed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use bytes::Bytes;
use flights::members::{Contact, Signature, Signatures};
use flights::{
    Decision, Key, LinkTest, Node, NodeId, PullProgress, RequestId, SourceRequest, Time,
};

/// Nodes share no clock: the clock of each is ahead by this times its number.
const CLOCK_SKEW: u64 = 7_919;

/// Signs with a checksum instead of a signature: fast, and no test forges one by chance.
#[derive(Debug)]
pub struct TestKey(pub NodeId);

impl Signatures for TestKey {
    fn sign(&self, record: &[u8]) -> Signature {
        let mut hasher = DefaultHasher::new();
        (self.0, record).hash(&mut hasher);
        let mut signature = [7; 64];
        signature[..8].copy_from_slice(&hasher.finish().to_be_bytes());
        signature
    }

    fn verify(&self, id: &NodeId, record: &[u8], signature: &Signature) -> bool {
        TestKey(*id).sign(record) == *signature
    }
}

pub fn id(node: usize) -> NodeId {
    let mut id = [7; 32];
    id[..8].copy_from_slice(&(node as u64).to_le_bytes());
    NodeId(id)
}

pub fn index(id: &NodeId) -> usize {
    let mut number = [0; 8];
    number.copy_from_slice(&id.0[..8]);
    u64::from_le_bytes(number) as usize
}

/// The result of a test that shows whether a node is slow.
pub fn link_test(is_slow: bool) -> LinkTest {
    LinkTest {
        bandwidth: Some(if is_slow { 1_000_000 } else { 9_000_000 }),
        others: [90, 91].map(|node| (id(node), 9_000_000)).into(),
    }
}

pub fn wanted(key: Key) -> SourceRequest {
    SourceRequest {
        repository: 1,
        // A different registry for each key, so that the progress of one object excuses no other.
        registry: u64::from(key.0[0]),
        size: Some(32 * 1024 * 1024),
        concurrent_objects: 3,
        ..SourceRequest::of_key(key)
    }
}

#[derive(Default)]
struct Peer {
    /// `None`: its process has ended.
    node: Option<Node>,
    wake_at: Option<u64>,
    /// The node is held up until then: it does nothing, and messages to it wait.
    held_until: u64,
    part: usize,
}

enum Event {
    Wake(usize),
    Deliver(usize, usize, Bytes),
    Undelivered(usize, usize),
}

pub struct Cluster {
    pub now: u64,
    peers: Vec<Peer>,
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
    random: u64,
    /// The lost messages of a thousand.
    pub lost: u64,
    pub doubled: u64,
    /// The latency one way, in milliseconds: at least 1.
    pub latency: u64,
    /// The minimal number of members of a shard.
    shard: usize,
    pub messages: u64,
    pub bytes: u64,
    decisions: Vec<(usize, RequestId, Decision)>,
}

impl Cluster {
    pub fn empty(seed: u64) -> Self {
        Self {
            now: 0,
            peers: Vec::new(),
            events: BTreeMap::new(),
            count: 0,
            random: seed | 1,
            lost: 0,
            doubled: 0,
            latency: 1,
            shard: usize::MAX,
            messages: 0,
            bytes: 0,
            decisions: Vec::new(),
        }
    }

    /// A cluster of nodes that know each other.
    pub fn new(size: usize) -> Self {
        Self::seeded(size, 1)
    }

    pub fn seeded(size: usize, seed: u64) -> Self {
        Self::divided(size, seed, usize::MAX)
    }

    /// A cluster in shards of at least this many nodes.
    pub fn divided(size: usize, seed: u64, shard: usize) -> Self {
        let mut cluster = Self::empty(seed);
        cluster.shard = shard;
        for _ in 0..size {
            cluster.add(&[0]);
        }
        cluster.run(20_000);
        for node in 0..size {
            assert_eq!(cluster.node(node).members().len(), size);
        }
        cluster
    }

    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Adds a node that joins by these seeds.
    pub fn add(&mut self, seeds: &[usize]) -> usize {
        self.peers.push(Peer::default());
        let node = self.peers.len() - 1;
        self.start(node, seeds);
        node
    }

    /// Restarts the process of a node.
    pub fn start(&mut self, node: usize, seeds: &[usize]) {
        let (now, seed) = (self.clock(node), self.random());
        let contact = Contact::default();
        let started = Node::new(now, id(node), contact, seed, Box::new(TestKey(id(node))));
        self.peers[node].node = Some(started.with_shards_of(self.shard));
        let seeds: Vec<_> = seeds.iter().map(|seed| id(*seed)).collect();
        self.with(node, |node, now| node.join(now, seeds));
    }

    pub fn kill(&mut self, node: usize) {
        self.peers[node].node = None;
    }

    pub fn is_up(&self, node: usize) -> bool {
        self.peers[node].node.is_some()
    }

    pub fn is_held(&self, node: usize) -> bool {
        self.peers[node].held_until > self.now
    }

    /// Holds up a node for this time.
    pub fn hold_up(&mut self, node: usize, millis: u64) {
        self.peers[node].held_until = self.now + millis;
    }

    /// Drops messages between nodes of different parts.
    pub fn split(&mut self, part: impl Fn(usize) -> usize) {
        for (number, peer) in self.peers.iter_mut().enumerate() {
            peer.part = part(number);
        }
    }

    pub fn reaches(&self, from: usize, to: usize) -> bool {
        self.is_up(to) && self.peers[from].part == self.peers[to].part
    }

    pub fn node(&self, node: usize) -> &Node {
        self.peers[node].node.as_ref().expect("it is up")
    }

    fn clock(&self, node: usize) -> Time {
        Time(self.now + node as u64 * CLOCK_SKEW)
    }

    /// Calls a node that is up, and delivers its messages and decisions.
    pub fn with<T>(&mut self, n: usize, act: impl FnOnce(&mut Node, Time) -> T) -> T {
        let now = self.clock(n);
        let node = self.peers[n].node.as_mut().expect("it is up");
        let result = act(node, now);
        let (datagrams, decisions) = (node.take_datagrams(), node.take_decisions());
        let wait = node.next_deadline().since(now).as_millis() as u64;
        self.decisions
            .extend(decisions.into_iter().map(|(request, o)| (n, request, o)));
        for datagram in datagrams {
            self.messages += 1;
            self.bytes += datagram.bytes.len() as u64;
            let to = index(&datagram.to);
            if self.random() % 1_000 < self.doubled {
                self.carry(n, to, datagram.bytes.clone());
            }
            self.carry(n, to, datagram.bytes);
        }
        let wake_at = self.now + wait;
        if self.peers[n].wake_at != Some(wake_at) {
            self.peers[n].wake_at = Some(wake_at);
            self.push(wake_at, Event::Wake(n));
        }
        result
    }

    fn carry(&mut self, from: usize, to: usize, bytes: Bytes) {
        let at = self.now + 1 + self.random() % self.latency;
        if self.random() % 1_000 >= self.lost {
            self.push(at, Event::Deliver(from, to, bytes));
        }
    }

    fn push(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    pub fn random(&mut self) -> u64 {
        // xorshift64*; Vigna, An experimental exploration of Marsaglia's xorshift generators, 2016.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn run(&mut self, millis: u64) {
        let end = self.now + millis;
        while let Some(entry) = self.events.first_entry().filter(|e| e.key().0 <= end) {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.happen(event);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        let (Event::Wake(at) | Event::Deliver(_, at, _) | Event::Undelivered(at, _)) = event;
        if !self.is_up(at) {
            if let Event::Deliver(from, to, _) = event {
                // The connection is refused.
                self.push(self.now + 1, Event::Undelivered(from, to));
            }
        } else if self.is_held(at) {
            let until = self.peers[at].held_until;
            self.push(until, event);
        } else {
            match event {
                Event::Wake(n) if self.peers[n].wake_at.is_some_and(|at| at <= self.now) => {
                    self.peers[n].wake_at = None;
                    self.with(n, Node::tick);
                }
                Event::Wake(_) => {}
                Event::Deliver(from, to, bytes) if self.reaches(from, to) => self
                    .with(to, |node, now| node.receive(now, id(from), &bytes))
                    .expect("nodes understand each other"),
                Event::Deliver(..) => {}
                Event::Undelivered(n, to) => {
                    self.with(n, |node, now| node.undelivered(now, id(to)));
                }
            }
        }
    }

    pub fn request_source(&mut self, n: usize, key: Key) -> RequestId {
        self.request_source_for(n, wanted(key))
    }

    pub fn request_source_for(&mut self, n: usize, wanted: SourceRequest) -> RequestId {
        self.with(n, |node, now| node.request_source(now, wanted))
    }

    pub fn report(&mut self, n: usize, key: Key, progress: PullProgress) {
        self.with(n, |node, now| node.report(now, key, progress));
    }

    /// The holders found by the only lookup of a node.
    pub fn found(&mut self, node: usize) -> Vec<NodeId> {
        let mut found = self.with(node, |node, _| node.take_found());
        assert_eq!(found.len(), 1);
        found.remove(0).1
    }

    pub fn decisions(&mut self) -> Vec<(usize, RequestId, Decision)> {
        std::mem::take(&mut self.decisions)
    }

    pub fn taken(&mut self) -> Vec<(usize, Decision)> {
        let decisions = self.decisions();
        decisions.into_iter().map(|(n, _, o)| (n, o)).collect()
    }

    /// Runs until this many decisions have come, and returns them. Fails after `limit` milliseconds.
    pub fn await_decisions(
        &mut self,
        count: usize,
        limit: u64,
    ) -> Vec<(usize, RequestId, Decision)> {
        let end = self.now + limit;
        while self.decisions.len() < count {
            assert!(self.now < end, "{:?} after {limit} ms", self.decisions);
            self.run(1);
        }
        self.decisions()
    }

    /// The arbiter of a key, by the members that a node knows.
    pub fn arbiter(&self, key: &Key) -> usize {
        use flights::members::Change;
        use flights::slots::{Scope, Slot, Slots};
        let observer = (0..self.len()).find(|n| self.is_up(*n)).expect("one is up");
        let members = self.node(observer).members();
        let joined: Vec<_> = members.iter().cloned().map(Change::Joined).collect();
        let mut slots = Slots::new();
        slots.update(self.clock(observer), &joined);
        let owners = slots.owners(Scope::Shard(0), Slot::of(&key.0));
        index(&owners.arbiter().expect("there are members"))
    }

    pub fn key_of_arbiter(&self, node: usize) -> Key {
        let mut keys = (0..10_000).map(|n| Key::of(&format!("sha256:{n}")));
        let key = keys.find(|key| self.arbiter(key) == node);
        key.expect("each node owns some slot")
    }

    pub fn time(&self, since: u64) -> Duration {
        Duration::from_millis(self.now - since)
    }
}
