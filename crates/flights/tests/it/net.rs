//! A network of nodes in one process: virtual time, latency, loss and partitions, all from a seed.

use std::collections::BTreeMap;
use std::collections::btree_map::OccupiedEntry;
use std::time::Duration;

use flights::members::{Change, Contact, Members};
use flights::slots::{Scope, Slot, Slots};
use flights::{NodeId, Time};

use crate::cluster::TestKey;

/// Nodes share no clock: the clock of each is ahead of the network's by this times its number.
const CLOCK_SKEW_MILLIS: u64 = 7_919;

/// The only shard.
const ALL: Scope = Scope::Shard(0);

pub struct Node {
    pub members: Members,
    pub slots: Slots,
    pub up: bool,
    /// The number of messages that it sent, and of their bytes.
    pub sent: u64,
    pub bytes: u64,
    wake_at: Option<u64>,
    part: usize,
}

enum Event {
    Wake(usize),
    Deliver {
        from: usize,
        to: usize,
        bytes: bytes::Bytes,
    },
}

pub struct Net {
    pub now: u64,
    pub nodes: Vec<Node>,
    /// Lost messages of a thousand.
    pub loss_per_mille: u64,
    /// The latency one way, in milliseconds.
    pub latency: std::ops::Range<u64>,
    /// How often a node removed a member.
    pub departures: u64,
    /// The events, by time, then in the order in which they were made.
    events: BTreeMap<(u64, u64), Event>,
    random: u64,
    count: u64,
}

pub fn id(node: usize) -> NodeId {
    let mut id = [7; 32];
    id[..8].copy_from_slice(&(node as u64).to_le_bytes());
    NodeId(id)
}

fn index(id: NodeId) -> usize {
    let mut number = [0; 8];
    number.copy_from_slice(&id.0[..8]);
    u64::from_le_bytes(number) as usize
}

fn contact(node: usize) -> Contact {
    let ip = [10, (node >> 16) as u8, (node >> 8) as u8, node as u8];
    let at = |port| vec![(ip, port).into()];
    Contact::new(at(5001), at(5000))
}

impl Net {
    pub fn new(seed: u64) -> Self {
        Self {
            now: 0,
            nodes: Vec::new(),
            loss_per_mille: 0,
            latency: 1..10,
            departures: 0,
            events: BTreeMap::new(),
            random: seed,
            count: 0,
        }
    }

    /// Starts one more node, which joins by `seeds`.
    pub fn start(&mut self, seeds: &[usize]) -> usize {
        let node = self.nodes.len();
        let members = self.fresh(node);
        self.nodes.push(Node {
            members,
            slots: Slots::new(),
            up: true,
            sent: 0,
            bytes: 0,
            wake_at: None,
            part: 0,
        });
        self.join(node, seeds);
        node
    }

    /// Stops the process of a node without notice and starts it again.
    pub fn restart(&mut self, node: usize, seeds: &[usize]) {
        let members = self.fresh(node);
        let it = &mut self.nodes[node];
        (it.members, it.slots, it.up) = (members, Slots::new(), true);
        self.join(node, seeds);
    }

    pub fn join(&mut self, node: usize, seeds: &[usize]) {
        let seeds: Vec<_> = seeds.iter().map(|seed| id(*seed)).collect();
        self.on(node, |members, now| members.join(now, seeds));
    }

    /// Calls a node, then delivers its messages and applies its changes.
    pub fn on(&mut self, node: usize, call: impl FnOnce(&mut Members, Time)) {
        let now = self.clock(node);
        call(&mut self.nodes[node].members, now);
        self.settle(node);
    }

    /// Drops messages between nodes of different parts.
    pub fn split(&mut self, part: impl Fn(usize) -> usize) {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.part = part(number);
        }
    }

    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until `done`, asked every 10 ms of virtual time, and returns how long that took; `None` if it took longer
    /// than `limit`.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        let end = start + limit.as_millis() as u64;
        let mut check = start;
        while self.now < end {
            if self.now >= check {
                if done(self) {
                    return Some(Duration::from_millis(self.now - start));
                }
                check = self.now + 10;
            }
            self.step(end.min(check));
        }
        None
    }

    /// Whether the members of each node that is up are exactly the nodes that are up.
    pub fn agree(&self) -> bool {
        let up: Vec<_> = (0..self.nodes.len())
            .filter(|node| self.nodes[*node].up)
            .collect();
        let complete = |node: &usize| self.nodes[*node].members.len() == up.len();
        up.iter().all(complete)
            && up.iter().all(|node| {
                let members = &self.nodes[*node].members;
                up.iter().all(|other| members.get(&id(*other)).is_some())
            })
    }

    /// The number of nodes that are up and list `member`.
    pub fn knowing(&self, member: usize) -> usize {
        let up = self.nodes.iter().filter(|node| node.up);
        up.filter(|node| node.members.get(&id(member)).is_some())
            .count()
    }

    /// The number of arbiters of a slot, as the nodes that have joined see it.
    pub fn arbiters(&self, slot: Slot) -> usize {
        let views = self
            .nodes
            .iter()
            .filter(|node| node.up && node.members.has_joined());
        let mut arbiters: Vec<_> = views
            .filter_map(|node| node.slots.owners(ALL, slot).arbiter())
            .collect();
        arbiters.sort_unstable();
        arbiters.dedup();
        arbiters.len()
    }

    pub fn owners_agree(&self) -> bool {
        let mut views = self
            .nodes
            .iter()
            .filter(|node| node.up)
            .map(|node| &node.slots);
        let first = views.next().expect("a node is up");
        views.all(|view| Slot::all().all(|slot| view.owners(ALL, slot) == first.owners(ALL, slot)))
    }

    pub fn sent(&self) -> u64 {
        self.nodes.iter().map(|node| node.sent).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.nodes.iter().map(|node| node.bytes).sum()
    }

    fn fresh(&mut self, node: usize) -> Members {
        let seed = self.next_random();
        let keys = Box::new(TestKey(id(node)));
        Members::new(self.clock(node), id(node), contact(node), seed, keys)
    }

    fn clock(&self, node: usize) -> Time {
        Time(self.now + node as u64 * CLOCK_SKEW_MILLIS)
    }

    /// Handles the next event, or goes on to `limit` if there is none before.
    fn step(&mut self, limit: u64) {
        let next = self
            .events
            .first_entry()
            .filter(|event| event.key().0 <= limit);
        let Some(((at, _), event)) = next.map(OccupiedEntry::remove_entry) else {
            self.now = limit;
            return;
        };
        self.now = at;
        match event {
            Event::Wake(node) => {
                let it = &mut self.nodes[node];
                if it.up && it.wake_at == Some(at) {
                    it.wake_at = None;
                    self.on(node, Members::tick);
                }
            }
            Event::Deliver { from, to, bytes } => {
                let reachable = self.nodes[from].part == self.nodes[to].part;
                if self.nodes[to].up && reachable {
                    self.on(to, |members, now| {
                        members
                            .receive(now, id(from), bytes)
                            .expect("nodes understand each other");
                    });
                }
            }
        }
    }

    fn settle(&mut self, node: usize) {
        let now = self.clock(node);
        let it = &mut self.nodes[node];
        let changes = it.members.take_changes();
        let left = changes
            .iter()
            .filter(|change| matches!(change, Change::Left(_)));
        self.departures += left.count() as u64;
        if !changes.is_empty() || it.slots.next_deadline().is_some_and(|at| at <= now) {
            it.slots.update(now, &changes);
        }
        let deadline = it
            .slots
            .next_deadline()
            .into_iter()
            .fold(it.members.next_deadline(), Time::min);
        let wake_at = self.now + deadline.since(now).as_millis() as u64;
        let datagrams = it.members.take_datagrams();
        it.sent += datagrams.len() as u64;
        it.bytes += datagrams
            .iter()
            .map(|datagram| datagram.bytes.len() as u64)
            .sum::<u64>();
        if it.wake_at.is_none_or(|at| at != wake_at) {
            it.wake_at = Some(wake_at);
            self.push(wake_at, Event::Wake(node));
        }
        for datagram in datagrams {
            let to = index(datagram.to);
            let is_lost = self.next_random() % 1_000 < self.loss_per_mille;
            if to < self.nodes.len() && !is_lost {
                let spread = self.latency.end - self.latency.start;
                let latency = self.latency.start + self.next_random() % spread;
                let event = Event::Deliver {
                    from: node,
                    to,
                    bytes: datagram.bytes,
                };
                self.push(self.now + latency, event);
            }
        }
    }

    fn push(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    fn next_random(&mut self) -> u64 {
        // xorshift64*; Vigna, An experimental exploration of Marsaglia's xorshift generators, 2016.
        self.random = self.random.max(1);
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
