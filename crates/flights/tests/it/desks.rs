//! What look-ups and announcements cost where very many share one view of the members.

use std::collections::BTreeMap;

use bytes::Bytes;
use flights::members::{Change, Contact, Member};
use flights::slots::{Owners, Realm, Slot};
use flights::{Born, Desk, Key, News, NodeId, Outcome, Time, View, Wanted};

use crate::cluster::{id, index, wanted};

/// The members as some nodes see them.
pub struct Directory {
    /// By the number of the district.
    realms: BTreeMap<u64, Realm>,
    members: usize,
}

impl Directory {
    pub fn new(members: impl Iterator<Item = usize>) -> Self {
        let joined = members.map(|node| {
            Change::Joined(Member {
                id: id(node),
                contact: Contact::default().into(),
                incarnation: 0,
                born: Born::from_age(Time(0), std::time::Duration::from_secs(3_600)),
            })
        });
        let joined: Vec<_> = joined.collect();
        let mut realms = BTreeMap::new();
        for change in &joined {
            let Change::Joined(member) = change else {
                continue;
            };
            let known: Option<&Realm> = realms.values().next();
            if known.is_none_or(|realm| !realms.contains_key(&realm.district(&member.id))) {
                let mut realm = Realm::new(member.id);
                realm.update(Time(0), &joined);
                realms.insert(realm.district(&member.id), realm);
            }
        }
        let members = joined.len();
        Self { realms, members }
    }

    fn realm(&self, node: &NodeId) -> &Realm {
        let any = self.realms.values().next().expect("there are members");
        &self.realms[&any.district(node)]
    }
}

pub struct Sight<'a>(NodeId, &'a Directory);

impl View for Sight<'_> {
    fn me(&self) -> NodeId {
        self.0
    }
    fn members(&self) -> usize {
        self.1.members
    }
    fn is_member(&self, _: &NodeId) -> bool {
        true
    }
    fn owners(&self, slot: Slot) -> Owners {
        self.1.realm(&self.0).owners(slot)
    }
    fn roots(&self, slot: Slot) -> Owners {
        self.1.realm(&self.0).roots(slot)
    }
    fn districts(&self) -> u64 {
        self.1.realm(&self.0).districts()
    }
    fn district(&self, id: &NodeId) -> u64 {
        self.1.realm(&self.0).district(id)
    }
    fn before(&self, _: Slot) -> Option<NodeId> {
        None
    }
    fn has_joined(&self) -> bool {
        true
    }
}

pub struct Desks<'a> {
    desks: BTreeMap<usize, (Desk, &'a Directory)>,
    messages: u64,
    bytes: u64,
}

impl<'a> Desks<'a> {
    pub fn new(nodes: usize, directory: impl Fn(usize) -> &'a Directory) -> Self {
        let desk = |n| (n, (Desk::new(id(n), n as u64), directory(n)));
        Self {
            desks: (0..nodes).map(desk).collect(),
            messages: 0,
            bytes: 0,
        }
    }

    pub fn with<T>(&mut self, n: usize, act: impl FnOnce(&mut Desk, &Sight<'_>) -> T) -> T {
        let (desk, directory) = self.desks.get_mut(&n).expect("it is there");
        act(desk, &Sight(id(n), directory))
    }

    /// Carries all messages, in rounds. Returns how many rounds it took.
    pub fn deliver(&mut self, now: Time) -> u64 {
        let mut rounds = 0;
        loop {
            let mut mail: Vec<(usize, NodeId, Bytes)> = Vec::new();
            for (n, (desk, _)) in &mut self.desks {
                let datagrams = desk.take_datagrams().into_iter();
                mail.extend(datagrams.map(|(to, bytes)| (*n, to, bytes)));
            }
            if mail.is_empty() {
                return rounds;
            }
            rounds += 1;
            for (from, to, bytes) in mail {
                self.messages += 1;
                self.bytes += bytes.len() as u64;
                self.with(index(&to), |desk, view| {
                    desk.receive(now, id(from), &bytes, view)
                })
                .expect("nodes understand each other");
            }
        }
    }

    pub fn tick(&mut self, now: Time) {
        for n in 0..self.desks.len() {
            self.with(n, |desk, view| desk.tick(now, view));
        }
        self.deliver(now);
    }
}

/// Among 1,024, of whom the one who asks knows a third: there and back, and once more if others own the key than it
/// thinks.
#[test]
fn a_look_up_takes_two_round_trips() {
    let all = Directory::new(0..1_024);
    let some = Directory::new((0..1_024).filter(|n| n % 3 == 0));
    let mut desks = Desks::new(1_024, |n| if n == 0 { &some } else { &all });
    let keys: Vec<_> = (0..1_000)
        .map(|n| Key::of(&format!("sha256:{n}")))
        .collect();
    desks.with(5, |desk, _| desk.hold(Time(0), &keys));
    desks.tick(Time(100));
    let mut trips = BTreeMap::<u64, u64>::new();
    for key in keys {
        desks.with(0, |desk, view| desk.find(Time(200), key, view));
        let rounds = desks.deliver(Time(200));
        let outcomes = desks.with(0, |desk, _| desk.take_outcomes());
        let [(_, Outcome::Found(holders))] = &outcomes[..] else {
            panic!("{outcomes:?}");
        };
        assert_eq!(holders[..], [id(5)]);
        *trips.entry(rounds.div_ceil(2)).or_default() += 1;
    }
    println!("look-ups by round trips: {trips:?}");
    assert!(trips.keys().all(|trips| *trips <= 2));
}

/// Measured for each node: of 16, 15 messages and 90 KB, and 15 and 1.6 KB to renew them after ten minutes; of 1,024, 174
/// and 97 KB, and 174 and 3.8 KB.
#[test]
fn two_thousand_keys_are_announced_in_a_message_for_each_owner() {
    for nodes in [16, 1_024] {
        let all = Directory::new(0..nodes);
        let mut desks = Desks::new(nodes, |_| &all);
        let announcing = 16.min(nodes);
        for node in 0..announcing {
            let keys = (0..2_000).map(|n| Key::of(&format!("sha256:{node}-{n}")));
            let keys: Vec<_> = keys.collect();
            desks.with(node, |desk, _| desk.hold(Time(0), &keys));
        }
        desks.tick(Time(100));
        let each = |total: u64| total / announcing as u64;
        let (messages, bytes) = (each(desks.messages), each(desks.bytes));
        println!("{nodes} nodes, each announces 2,000 keys: {messages} messages, {bytes} bytes");
        let owners = Slot::all().flat_map(|slot| all.realm(&id(0)).owners(slot).to_vec());
        let owners: std::collections::BTreeSet<_> = owners.collect();
        assert!(messages <= owners.len() as u64);
        assert!(bytes <= 3 * 2_000 * 16 + 64 * messages);
        (desks.messages, desks.bytes) = (0, 0);
        desks.tick(Time(100 + 10 * 60 * 1_000));
        let (messages, bytes) = (each(desks.messages), each(desks.bytes));
        println!("{nodes} nodes, each renews them: {messages} messages, {bytes} bytes");
        assert!(messages <= owners.len() as u64, "nobody has lost count");
        assert!(bytes <= 64 * 3 * 8 + 64 * messages);
    }
}

/// One leads and all others have a source when it has begun, in one message each way and one to say that they wait.
#[test]
fn ten_thousand_ask_for_one_key_at_once() {
    let nodes = 10_000;
    let all = Directory::new(0..nodes);
    let mut desks = Desks::new(nodes, |_| &all);
    let key = Key::of("sha256:a");
    for n in 0..nodes {
        desks.with(n, |desk, view| desk.seek(Time(0), wanted(key), view));
    }
    desks.deliver(Time(0));
    let outcomes = |desks: &mut Desks<'_>| {
        let each = (0..nodes).map(|n| desks.with(n, |desk, _| desk.take_outcomes()));
        each.enumerate()
            .filter_map(|(n, outcomes)| Some((n, outcomes.into_iter().next()?.1)))
            .collect::<Vec<_>>()
    };
    let first = outcomes(&mut desks);
    let [(leader, Outcome::Lead)] = first[..] else {
        panic!("{first:?}");
    };
    let begun = News::Begun { size: 32 << 20 };
    desks.with(leader, |desk, view| {
        desk.report(Time(300), key, begun, view);
    });
    desks.deliver(Time(300));
    for now in [350, 400, 450, 500] {
        desks.tick(Time(now));
    }
    let others = outcomes(&mut desks);
    assert_eq!(others.len(), nodes - 1);
    let mut children = BTreeMap::<NodeId, u64>::new();
    for (_, outcome) in others {
        let Outcome::Follow { source, .. } = outcome else {
            panic!("{outcome:?}");
        };
        *children.entry(source).or_default() += 1;
    }
    let most = children.values().max();
    println!(
        "{} messages, nobody has more than {most:?} children",
        desks.messages
    );
    assert!(desks.messages <= 4 * nodes as u64);
    assert!(most <= Some(&4), "three streams make three children");
}

/// A node of each district and some more, spread over a cluster of four.
fn some_of(all: &Directory, of_each: usize) -> Vec<usize> {
    let mut by_district = BTreeMap::<u64, Vec<usize>>::new();
    for n in 0..all.members {
        let district = all.realm(&id(n)).district(&id(n));
        by_district.entry(district).or_default().push(n);
    }
    assert_eq!(by_district.len(), 4);
    by_district
        .values()
        .flat_map(|nodes| nodes[..of_each].to_vec())
        .collect()
}

/// What an asker was told, once everything is said and done.
fn told(desks: &mut Desks<'_>, asker: usize) -> Outcome {
    let outcomes = desks.with(asker, |desk, _| desk.take_outcomes());
    let [(_, outcome)] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    outcome.clone()
}

/// What these nodes were told since the last call.
fn outcomes(desks: &mut Desks<'_>, nodes: &[usize]) -> BTreeMap<usize, Outcome> {
    let each = nodes
        .iter()
        .map(|n| (*n, desks.with(*n, |d, _| d.take_outcomes())));
    each.flat_map(|(n, all)| all.into_iter().map(move |(_, o)| (n, o)))
        .collect()
}

#[test]
fn no_node_gets_two_objects_at_once_for_its_district() {
    let all = Directory::new(0..4_200);
    let mut desks = Desks::new(4_200, |_| &all);
    let nodes = some_of(&all, 2);
    let (holder, pair) = (nodes[0], [nodes[2], nodes[3]]);
    let keys: Vec<_> = (0..20).map(|n| Key::of(&format!("sha256:{n}"))).collect();
    desks.with(holder, |desk, _| desk.hold(Time(0), &keys));
    desks.tick(Time(100));
    desks.tick(Time(200));
    let mut now = 300;
    for keys in keys.chunks(2) {
        let mut heads = Vec::new();
        for (node, key) in pair
            .iter()
            .flat_map(|node| keys.iter().map(move |key| (*node, key)))
        {
            desks.with(node, |desk, view| desk.seek(Time(now), wanted(*key), view));
        }
        desks.deliver(Time(now));
        for _ in 0..6 {
            now += 50;
            desks.tick(Time(now));
        }
        for node in pair {
            for (_, outcome) in desks.with(node, |desk, _| desk.take_outcomes()) {
                match outcome {
                    Outcome::Follow { source, .. } if source == id(holder) => heads.push(node),
                    Outcome::Follow { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            for key in keys {
                desks.with(node, |desk, view| {
                    desk.report(Time(now), *key, News::Done, view);
                });
            }
        }
        heads.sort_unstable();
        assert_eq!(heads, pair);
        desks.deliver(Time(now));
    }
}

#[test]
fn what_one_district_holds_the_others_find() {
    let all = Directory::new(0..4_200);
    let mut desks = Desks::new(4_200, |_| &all);
    let nodes = some_of(&all, 2);
    let holder = nodes[0];
    let keys: Vec<_> = (0..50).map(|n| Key::of(&format!("sha256:{n}"))).collect();
    desks.with(holder, |desk, _| desk.hold(Time(0), &keys));
    // The holder tells its district, and that tells the cluster.
    desks.tick(Time(100));
    desks.tick(Time(200));
    for key in &keys {
        for asker in &nodes[1..] {
            desks.with(*asker, |desk, view| desk.find(Time(300), *key, view));
            assert!(desks.deliver(Time(300)) <= 6, "three round trips");
            assert_eq!(told(&mut desks, *asker), Outcome::Found(vec![id(holder)]));
        }
    }
    for key in &keys[..5] {
        desks.with(nodes[7], |desk, view| {
            desk.seek(Time(300), wanted(*key), view)
        });
        desks.deliver(Time(300));
        // It gets others for its district already, and nobody else asks.
        desks.tick(Time(350));
        desks.tick(Time(400));
        let outcome = told(&mut desks, nodes[7]);
        assert!(matches!(outcome, Outcome::Follow { source, .. } if source == id(holder)));
    }
    // And what it holds no longer, nobody is sent to.
    desks.with(holder, |desk, _| desk.release(Time(400), &keys));
    desks.tick(Time(500));
    desks.tick(Time(600));
    for key in &keys {
        desks.with(nodes[7], |desk, view| desk.find(Time(700), *key, view));
        desks.deliver(Time(700));
        assert_eq!(told(&mut desks, nodes[7]), Outcome::Found(Vec::new()));
    }
}

#[test]
fn all_districts_together_have_one_lead() {
    let all = Directory::new(0..4_200);
    let mut desks = Desks::new(4_200, |_| &all);
    let nodes = some_of(&all, 5);
    for n in 0..20 {
        let key = Key::of(&format!("sha256:{n}"));
        let at = Time(n * 10_000);
        for asker in &nodes {
            desks.with(*asker, |desk, view| desk.seek(at, wanted(key), view));
        }
        // Districts gather their questions before one asks.
        for beat in 1..=4 {
            desks.deliver(at);
            desks.tick(Time(at.0 + 50 * beat));
        }
        let first = outcomes(&mut desks, &nodes);
        let leads: Vec<_> = first.iter().filter(|(_, o)| **o == Outcome::Lead).collect();
        assert_eq!((first.len(), leads.len()), (1, 1), "{first:?}");
        let leader = *leads[0].0;
        let begun = News::Begun { size: 30_000_000 };
        desks.with(leader, |desk, view| {
            desk.report(Time(at.0 + 300), key, begun, view);
        });
        desks.deliver(Time(at.0 + 300));
        for beat in 7..=9 {
            desks.tick(Time(at.0 + 50 * beat));
        }
        let sources: BTreeMap<_, _> = outcomes(&mut desks, &nodes)
            .into_iter()
            .map(|(n, outcome)| match outcome {
                Outcome::Follow { source, .. } => (n, index(&source)),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sources.len(), nodes.len() - 1);
        // Whoever leads may lead all of an image: even its own district has another head.
        let fed = sources.values().filter(|source| **source == leader);
        assert_eq!(fed.count(), 1, "{sources:?}");
        // Everybody's bytes come from who leads.
        for node in sources.keys() {
            let mut at = *node;
            for _ in 0..nodes.len() {
                at = sources.get(&at).copied().unwrap_or(at);
            }
            assert_eq!(at, leader);
        }
        for node in &nodes {
            desks.with(*node, |desk, view| {
                desk.report(Time(at.0 + 900), key, News::Done, view);
            });
        }
        desks.deliver(Time(at.0 + 900));
    }
}

#[test]
fn a_district_waits_for_a_lead_that_is_queued() {
    let all = Directory::new(0..4_200);
    let mut desks = Desks::new(4_200, |_| &all);
    let nodes = some_of(&all, 3);
    let [first, second] = ["sha256:first", "sha256:second"].map(Key::of);
    let wanted = |key| Wanted {
        registry: 1,
        ..wanted(key)
    };
    let begun = News::Begun { size: 30_000_000 };
    for asker in &nodes {
        desks.with(*asker, |desk, view| {
            desk.seek(Time(0), wanted(second), view)
        });
    }
    desks.deliver(Time(0));
    let mut told = BTreeMap::new();
    for beat in 1..=4 {
        desks.tick(Time(50 * beat));
        told.extend(outcomes(&mut desks, &nodes));
    }
    let [(leader, Outcome::Lead)] = told.iter().collect::<Vec<_>>()[..] else {
        panic!("{told:?}");
    };
    // It is told to lead another one as well, which comes first.
    let leader = *leader;
    desks.with(leader, |desk, view| {
        desk.seek(Time(250), wanted(first), view)
    });
    for beat in 3..50 {
        let now = Time(100 * beat);
        desks.deliver(now);
        desks.with(leader, |desk, view| desk.report(now, first, begun, view));
        desks.tick(now);
    }
    let others = nodes.iter().filter(|node| **node != leader);
    let told = outcomes(&mut desks, &others.copied().collect::<Vec<_>>());
    assert!(told.is_empty(), "they wait at no charge: {told:?}");
    desks.with(leader, |desk, view| {
        desk.report(Time(5_000), second, begun, view);
    });
    for beat in 50..54 {
        desks.deliver(Time(100 * beat));
        desks.tick(Time(100 * beat));
    }
    desks.with(leader, |desk, _| desk.take_outcomes());
    let told = outcomes(&mut desks, &nodes);
    let follow = told
        .values()
        .filter(|o| matches!(o, Outcome::Follow { .. }));
    assert_eq!(follow.count(), nodes.len() - 1, "{told:?}");
}

#[test]
fn a_lead_that_asks_again_in_its_district_leads_for_all() {
    let all = Directory::new(0..4_200);
    let mut desks = Desks::new(4_200, |_| &all);
    let nodes = some_of(&all, 1);
    let key = Key::of("sha256:asked twice");
    let is_apart = |node: &&usize| {
        all.realm(&id(**node)).owners(Slot::of(&key.0)).arbiter()
            != all.realm(&id(**node)).roots(Slot::of(&key.0)).arbiter()
    };
    let (mut apart, mut others) = (nodes.iter().filter(is_apart), nodes.iter());
    let leader = *apart.next().expect("three of four districts are");
    let other = *others
        .find(|node| **node != leader)
        .expect("another district");
    for at in [0, 1_000] {
        desks.with(leader, |desk, view| desk.seek(Time(at), wanted(key), view));
        for beat in 0..4 {
            desks.deliver(Time(at + 50 * beat));
            desks.tick(Time(at + 50 * beat));
        }
        let told = desks.with(leader, |desk, _| desk.take_outcomes());
        assert!(matches!(told[..], [(_, Outcome::Lead)]), "{told:?}");
    }
    for beat in 10..50 {
        desks.deliver(Time(100 * beat));
        desks.tick(Time(100 * beat));
    }
    let now = 5_000;
    desks.with(other, |desk, view| desk.seek(Time(now), wanted(key), view));
    for beat in 0..4 {
        desks.deliver(Time(now + 50 * beat));
        desks.tick(Time(now + 50 * beat));
    }
    let told = desks.with(other, |desk, _| desk.take_outcomes());
    assert!(told.is_empty(), "{told:?}");
}
