//! A hostile member: it sends any message, with all records that it has seen.

use std::collections::BTreeMap;

use super::tests::id;
use super::wire::tests::{TestKey, claim, update};
use super::*;

const HONEST: u32 = 5;
const HOSTILE: u32 = 99;
/// Time advances in steps, and a message takes one.
const STEP_MILLIS: u64 = 20;
/// The first number of made-up members.
const MADE_UP: u32 = 1_000;
/// The first number of the hostile member's other identities, as which it sends.
const STRANGER: u32 = 2_000;

struct Cluster {
    now: Time,
    nodes: Vec<Members>,
    /// The sender, the recipient and the message.
    carried: Vec<(NodeId, NodeId, Bytes)>,
    lost_percent: usize,
    random: Random,
    /// All records that the hostile member has been sent.
    seen: Vec<MemberUpdate>,
    /// Since when an honest member has been missing on another's list.
    missing: BTreeMap<(usize, u32), Time>,
    longest_absence: Duration,
    /// Messages to made-up members, each of which may be a connection.
    to_made_up: usize,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let start = Time(1_000);
        let node = |number: u32| {
            let key = Box::new(TestKey(id(number)));
            let mut node = Members::new(start, id(number), Contact::default(), number.into(), key);
            node.join(start, [id(0)]);
            node
        };
        let mut cluster = Self {
            now: start,
            nodes: (0..HONEST).map(node).collect(),
            carried: Vec::new(),
            lost_percent: 0,
            random: Random::new(seed),
            seen: Vec::new(),
            missing: BTreeMap::new(),
            longest_absence: Duration::ZERO,
            to_made_up: 0,
        };
        (0..500).for_each(|_| cluster.step());
        cluster.check();
        assert_eq!(cluster.missing, BTreeMap::new(), "they know each other");
        cluster
    }

    fn step(&mut self) {
        self.now = Time(self.now.0 + STEP_MILLIS);
        for (from, to, bytes) in std::mem::take(&mut self.carried) {
            let is_lost = self.random.below(100) < self.lost_percent;
            if to == id(HOSTILE) {
                self.see(&bytes);
            } else if !is_lost && let Some(node) = self.nodes.iter_mut().find(|n| n.me().id == to) {
                let accepted = node.receive(self.now, from, bytes);
                let is_honest = (0..HONEST).any(|number| id(number) == from);
                assert!(accepted.is_ok() || !is_honest, "{accepted:?}");
            }
        }
        for node in &mut self.nodes {
            if node.next_deadline() <= self.now {
                node.tick(self.now);
            }
            let from = node.me().id;
            for Datagram { to, bytes } in node.take_datagrams() {
                let is_made_up = (MADE_UP..STRANGER).any(|number| id(number) == to);
                self.to_made_up += usize::from(is_made_up);
                self.carried.push((from, to, bytes));
            }
        }
    }

    fn see(&mut self, bytes: &Bytes) {
        if let Ok((_, Message::Members(message))) = Message::from_datagram(&bytes[..]) {
            for update in message.updates {
                if self
                    .seen
                    .iter()
                    .all(|seen| seen.signature != update.signature)
                {
                    self.seen.push(update);
                }
            }
        }
    }

    /// Records which nodes lack which members.
    fn check(&mut self) {
        for (at, node) in self.nodes.iter().enumerate() {
            for number in 0..HONEST {
                if node.get(&id(number)).is_some() {
                    self.missing.remove(&(at, number));
                } else {
                    let since = self.missing.entry((at, number)).or_insert(self.now);
                    self.longest_absence = self.longest_absence.max(self.now.since(*since));
                }
            }
        }
    }

    /// The hostile member sends any message to any node, as itself or as a node that it has made up.
    fn attack(&mut self) {
        let random = &mut self.random;
        let anybody = |random: &mut Random| match random.below(4) {
            0 => Bytes::new(),
            1 => node_field(Some(id(HOSTILE))),
            2 => node_field(Some(id(MADE_UP + random.below(500) as u32))),
            _ => node_field(Some(id(random.below(HONEST as usize) as u32))),
        };
        let probe = |random: &mut Random| Probe {
            number: random.below(50) as u32,
            target: anybody(random),
            origin: anybody(random),
        };
        let kind = match random.below(6) {
            0 | 1 => None,
            2 => Some(Kind::Ping(probe(random))),
            3 => Some(Kind::Ack(probe(random))),
            4 => Some(Kind::Sync(wire::Sync {
                joining: random.below(2) == 0,
                bucket_hashes: vec![random.next(); 64],
            })),
            _ => Some(Kind::List(wire::List {
                members: random.next() as u32,
                whole_buckets: random.next(),
            })),
        };
        let updates = (0..random.below(8)).map(|_| {
            let mut update = match random.below(3) {
                0 => update(&claim(made_up(random), Status::Alive)),
                1 => update(&claim(hostile(), Status::Alive)),
                _ => {
                    let at = random.below(self.seen.len());
                    let seen = self.seen.get(at).cloned();
                    seen.unwrap_or_else(|| {
                        super::wire::tests::update(&claim(hostile(), Status::Alive))
                    })
                }
            };
            update.status = random.below(4) as i32;
            match random.below(4) {
                0 => update.incarnation += random.below(3) as u32,
                1 => update.incarnation = u32::MAX - random.below(3) as u32,
                _ => {}
            }
            if random.below(4) == 0 {
                update.age_ms = random.next() >> random.below(64);
            }
            update
        });
        let message = Message::Members(MembersMessage {
            kind,
            updates: updates.collect(),
        });
        let from = match random.below(8) {
            0 => id(STRANGER + random.below(500) as u32),
            _ => id(HOSTILE),
        };
        let to = id(random.below(HONEST as usize) as u32);
        self.carried.push((from, to, message.into_datagram(None)));
    }
}

fn hostile() -> Member {
    super::tests::member(HOSTILE, 0)
}

fn made_up(random: &mut Random) -> Member {
    super::tests::member(MADE_UP + random.below(500) as u32, random.below(3) as u32)
}

/// Runs a cluster under attack for a minute, and returns it.
fn attacked(seed: u64, lost_percent: usize) -> Cluster {
    let mut cluster = Cluster::new(seed);
    cluster.lost_percent = lost_percent;
    cluster.to_made_up = 0;
    for _ in 0..60_000 / STEP_MILLIS {
        // A hundred messages a second.
        (0..2).for_each(|_| cluster.attack());
        cluster.step();
        cluster.check();
    }
    cluster
}

#[test]
fn a_hostile_member_removes_nobody() {
    for seed in 1..=3 {
        let cluster = attacked(seed, 0);
        assert_eq!(cluster.longest_absence, Duration::ZERO, "seed {seed}");
        for node in &cluster.nodes {
            // At most one refutation a second.
            assert!(node.me().incarnation <= 62, "{}", node.me().incarnation);
        }
    }
}

#[test]
fn where_messages_are_lost_it_hides_nobody_for_long() {
    for seed in 1..=3 {
        let cluster = attacked(seed, 10);
        let longest = cluster.longest_absence;
        assert!(longest <= timing::SUSPICION, "seed {seed}: {longest:?}");
    }
}

#[test]
fn made_up_members_are_never_members_and_cause_few_connections() {
    let cluster = attacked(7, 0);
    for node in &cluster.nodes {
        let most = HONEST as usize + 1;
        assert!(node.len() <= most, "{} members", node.len());
    }
    let limit = HONEST as usize * (512 + 60 * 5);
    println!("{} messages of {limit}", cluster.to_made_up);
    assert!(cluster.to_made_up <= limit, "{}", cluster.to_made_up);
}

#[test]
fn who_joins_during_an_attack_is_a_member_everywhere() {
    let mut cluster = attacked(8, 0);
    let joining = cluster.nodes.len() as u32;
    let key = Box::new(TestKey(id(joining)));
    let contact = Contact::default();
    let mut node = Members::new(cluster.now, id(joining), contact, joining.into(), key);
    node.join(cluster.now, [id(0)]);
    cluster.nodes.push(node);
    for _ in 0..15_000 / STEP_MILLIS {
        (0..2).for_each(|_| cluster.attack());
        cluster.step();
    }
    for node in &cluster.nodes {
        assert!(
            node.get(&id(joining)).is_some(),
            "not at {:?}",
            node.me().id
        );
    }
}
