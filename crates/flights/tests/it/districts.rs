//! What nodes of several districts make of one another.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use flights::slots::Slot;
use flights::{Key, News, Outcome, SeekId, Time, Wanted};

use crate::cluster::{id, index, wanted};
use crate::desks::{Desks, Directory};

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

/// A node that asks for three objects at once, which a node of another district holds, as nobody else of its own does.
struct Head<'a> {
    desks: Desks<'a>,
    node: usize,
    seeks: BTreeMap<SeekId, Key>,
}

impl<'a> Head<'a> {
    fn new(all: &'a Directory, holder: usize, node: usize) -> Self {
        let mut desks = Desks::new(4_200, |_| all);
        let keys = ["a", "b", "c"].map(Key::of);
        desks.with(holder, |desk, _| desk.hold(Time(0), &keys));
        desks.tick(Time(100));
        desks.tick(Time(200));
        let seeks = keys.map(|key| {
            let seek = desks.with(node, |desk, view| desk.seek(Time(300), wanted(key), view));
            (seek, key)
        });
        let seeks = seeks.into();
        Self { desks, node, seeks }
    }

    /// What it is told to follow meanwhile, and whom, while bytes of an object come to it.
    fn follows(&mut self, times: RangeInclusive<u64>, comes: Option<Key>) -> Vec<(Key, usize)> {
        let begun = News::Begun { size: 32 << 20 };
        let mut followed = Vec::new();
        for now in times.step_by(50).map(Time) {
            self.desks.deliver(now);
            let told = self.desks.with(self.node, |desk, view| {
                if let Some(key) = comes {
                    desk.report(now, key, begun, view);
                }
                desk.take_outcomes()
            });
            self.desks.tick(now);
            for (seek, outcome) in told {
                match outcome {
                    Outcome::Follow { source, .. } => {
                        followed.push((self.seeks[&seek], index(&source)));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        followed
    }
}

#[test]
fn what_comes_besides_an_object_for_the_district_comes_last_and_one_at_a_time() {
    let all = Directory::new(0..4_200);
    let nodes = some_of(&all, 2);
    let (holder, near) = (nodes[0], nodes[3]);
    let mut head = Head::new(&all, holder, nodes[2]);
    let first = head.follows(300..=600, None);
    let [(comes, source)] = first[..] else {
        panic!("one for its district: {first:?}");
    };
    assert_eq!(source, holder);
    // Then another one of the district has them all.
    let keys: Vec<_> = head.seeks.values().copied().collect();
    head.desks.with(near, |desk, _| desk.hold(Time(600), &keys));
    assert_eq!(head.follows(650..=2_200, Some(comes)), []);
    let second = head.follows(2_250..=9_000, Some(comes));
    assert!(
        matches!(second[..], [(_, source)] if source == near),
        "{second:?}"
    );
    head.desks.with(head.node, |desk, view| {
        desk.report(Time(9_000), comes, News::Done, view);
    });
    let third = head.follows(9_050..=9_200, None);
    assert!(
        matches!(third[..], [(_, source)] if source == near),
        "{third:?}"
    );
}

#[test]
fn an_object_of_which_nothing_comes_holds_nothing_up() {
    let all = Directory::new(0..4_200);
    let nodes = some_of(&all, 1);
    let mut head = Head::new(&all, nodes[0], nodes[1]);
    assert_eq!(head.follows(300..=1_700, None).len(), 1);
    assert_eq!(head.follows(1_750..=6_000, None).len(), 2);
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

#[test]
fn what_is_kept_back_gives_its_place_up() {
    let all = Directory::new(0..4_200);
    let nodes = some_of(&all, 1);
    let mut desks = Desks::new(4_200, |_| &all);
    let keys = ["a", "b", "c"].map(Key::of);
    desks.with(nodes[0], |desk, _| desk.hold(Time(0), &keys));
    desks.tick(Time(100));
    desks.tick(Time(200));
    for key in keys {
        let yields = Some(Duration::from_millis(200));
        let wanted = Wanted {
            yields,
            ..wanted(key)
        };
        desks.with(nodes[1], |desk, view| desk.seek(Time(300), wanted, view));
    }
    let mut told = Vec::new();
    for now in (300..=600).step_by(50).map(Time) {
        desks.deliver(now);
        desks.tick(now);
        told.extend(desks.with(nodes[1], |desk, _| desk.take_outcomes()));
    }
    let count = |is: fn(&Outcome) -> bool| told.iter().filter(|(_, o)| is(o)).count();
    assert_eq!(
        count(|o| matches!(o, Outcome::Follow { .. })),
        1,
        "{told:?}"
    );
    assert_eq!(count(|o| *o == Outcome::Later), 2, "{told:?}");
}
