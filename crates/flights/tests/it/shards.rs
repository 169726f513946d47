//! What nodes of several shards make of one another.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use flights::slots::Slot;
use flights::{Decision, Key, NodeId, PullProgress, ReceiveRates, RequestId, SourceRequest, Time};

use crate::cluster::{id, index, wanted};
use crate::coordinators::{Coordinators, Directory};

/// A node of each shard and some more, spread over a cluster of four.
fn some_of(all: &Directory, of_each: usize) -> Vec<usize> {
    let mut by_shard = BTreeMap::<u64, Vec<usize>>::new();
    for n in 0..all.members {
        let shard = all.shard_map(&id(n)).shard_of(&id(n));
        by_shard.entry(shard).or_default().push(n);
    }
    assert_eq!(by_shard.len(), 4);
    by_shard
        .values()
        .flat_map(|nodes| nodes[..of_each].to_vec())
        .collect()
}

/// What these nodes were told since the last call.
/// What a lookup has found.
fn found(coordinators: &mut Coordinators<'_>, asker: usize) -> Vec<NodeId> {
    let mut found = coordinators.with(asker, |coordinator, _| coordinator.take_found());
    assert_eq!(found.len(), 1);
    found.remove(0).1
}

fn decisions(coordinators: &mut Coordinators<'_>, nodes: &[usize]) -> BTreeMap<usize, Decision> {
    let each = nodes
        .iter()
        .map(|n| (*n, coordinators.with(*n, |d, _| d.take_decisions())));
    each.flat_map(|(n, all)| all.into_iter().map(move |(_, o)| (n, o)))
        .collect()
}

#[test]
fn no_node_fetches_two_objects_at_once_for_its_shard() {
    let all = Directory::new(0..4_200);
    let mut coordinators = Coordinators::new(4_200, |_| &all);
    let nodes = some_of(&all, 2);
    let (holder, pair) = (nodes[0], [nodes[2], nodes[3]]);
    let keys: Vec<_> = (0..20).map(|n| Key::of(&format!("sha256:{n}"))).collect();
    coordinators.with(holder, |coordinator, _| coordinator.hold(Time(0), &keys));
    coordinators.tick(Time(100));
    coordinators.tick(Time(200));
    let mut now = 300;
    for keys in keys.chunks(2) {
        let mut fetchers = Vec::new();
        for (node, key) in pair
            .iter()
            .flat_map(|node| keys.iter().map(move |key| (*node, key)))
        {
            coordinators.with(node, |coordinator, view| {
                coordinator.request_source(Time(now), wanted(*key), view)
            });
        }
        coordinators.deliver(Time(now));
        for _ in 0..6 {
            now += 50;
            coordinators.tick(Time(now));
        }
        for node in pair {
            for (_, decision) in
                coordinators.with(node, |coordinator, _| coordinator.take_decisions())
            {
                match decision {
                    Decision::Follow { source, .. } if source == id(holder) => fetchers.push(node),
                    Decision::Follow { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            for key in keys {
                coordinators.with(node, |coordinator, view| {
                    coordinator.report(Time(now), *key, PullProgress::Done, view);
                });
            }
        }
        fetchers.sort_unstable();
        assert_eq!(fetchers, pair);
        coordinators.deliver(Time(now));
    }
}

#[test]
fn what_one_shard_holds_the_others_find() {
    let all = Directory::new(0..4_200);
    let mut coordinators = Coordinators::new(4_200, |_| &all);
    let nodes = some_of(&all, 2);
    let holder = nodes[0];
    let keys: Vec<_> = (0..50).map(|n| Key::of(&format!("sha256:{n}"))).collect();
    coordinators.with(holder, |coordinator, _| coordinator.hold(Time(0), &keys));
    // The holder tells its shard, and that tells the cluster.
    coordinators.tick(Time(100));
    coordinators.tick(Time(200));
    for key in &keys {
        for asker in &nodes[1..] {
            coordinators.with(*asker, |coordinator, view| {
                coordinator.find_holders(Time(300), *key, view)
            });
            assert!(coordinators.deliver(Time(300)) <= 6, "three round trips");
            assert_eq!(found(&mut coordinators, *asker), [id(holder)]);
        }
    }
    // And what it holds no longer, nobody is sent to.
    coordinators.with(holder, |coordinator, _| {
        coordinator.release(Time(400), &keys);
    });
    coordinators.tick(Time(500));
    coordinators.tick(Time(600));
    for key in &keys {
        coordinators.with(nodes[7], |coordinator, view| {
            coordinator.find_holders(Time(700), *key, view)
        });
        coordinators.deliver(Time(700));
        assert_eq!(found(&mut coordinators, nodes[7]), []);
    }
}

/// A node that asks for three objects at once, which a node of another shard holds, as nobody else of its own does.
struct Fetcher<'a> {
    coordinators: Coordinators<'a>,
    node: usize,
    requests: BTreeMap<RequestId, Key>,
}

impl<'a> Fetcher<'a> {
    fn new(all: &'a Directory, holder: usize, node: usize) -> Self {
        let mut coordinators = Coordinators::new(4_200, |_| all);
        let keys = ["a", "b", "c"].map(Key::of);
        coordinators.with(holder, |coordinator, _| coordinator.hold(Time(0), &keys));
        coordinators.tick(Time(100));
        coordinators.tick(Time(200));
        let requests = keys.map(|key| {
            let request = coordinators.with(node, |coordinator, view| {
                coordinator.request_source(Time(300), wanted(key), view)
            });
            (request, key)
        });
        let requests = requests.into();
        Self {
            coordinators,
            node,
            requests,
        }
    }

    /// What it is told to follow meanwhile, and whom, while bytes of an object come to it.
    fn follows(&mut self, times: RangeInclusive<u64>, comes: Option<Key>) -> Vec<(Key, usize)> {
        let begun = PullProgress::Begun { size: 32 << 20 };
        let mut followed = Vec::new();
        for now in times.step_by(50).map(Time) {
            self.coordinators.deliver(now);
            let told = self.coordinators.with(self.node, |coordinator, view| {
                if let Some(key) = comes {
                    coordinator.report(now, key, begun, view);
                }
                coordinator.take_decisions()
            });
            self.coordinators.tick(now);
            for (request, decision) in told {
                match decision {
                    Decision::Follow { source, .. } => {
                        followed.push((self.requests[&request], index(&source)));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        followed
    }
}

#[test]
fn a_fetcher_pulls_other_objects_last_and_one_at_a_time() {
    let all = Directory::new(0..4_200);
    let nodes = some_of(&all, 2);
    let (holder, near) = (nodes[0], nodes[3]);
    let mut fetcher = Fetcher::new(&all, holder, nodes[2]);
    let first = fetcher.follows(300..=600, None);
    let [(comes, source)] = first[..] else {
        panic!("one for its shard: {first:?}");
    };
    assert_eq!(source, holder);
    // Then another one of the shard has them all.
    let keys: Vec<_> = fetcher.requests.values().copied().collect();
    fetcher
        .coordinators
        .with(near, |coordinator, _| coordinator.hold(Time(600), &keys));
    assert_eq!(fetcher.follows(650..=2_200, Some(comes)), []);
    let second = fetcher.follows(2_250..=9_000, Some(comes));
    assert!(
        matches!(second[..], [(_, source)] if source == near),
        "{second:?}"
    );
    fetcher
        .coordinators
        .with(fetcher.node, |coordinator, view| {
            coordinator.report(Time(9_000), comes, PullProgress::Done, view);
        });
    let third = fetcher.follows(9_050..=9_200, None);
    assert!(
        matches!(third[..], [(_, source)] if source == near),
        "{third:?}"
    );
}

#[test]
fn an_object_of_which_nothing_comes_holds_nothing_up() {
    let all = Directory::new(0..4_200);
    let nodes = some_of(&all, 1);
    let mut fetcher = Fetcher::new(&all, nodes[0], nodes[1]);
    assert_eq!(fetcher.follows(300..=1_700, None).len(), 1);
    assert_eq!(fetcher.follows(1_750..=6_000, None).len(), 2);
}

#[test]
fn all_shards_together_have_one_lead() {
    let all = Directory::new(0..4_200);
    let mut coordinators = Coordinators::new(4_200, |_| &all);
    let nodes = some_of(&all, 5);
    for n in 0..20 {
        let key = Key::of(&format!("sha256:{n}"));
        let at = Time(n * 10_000);
        for asker in &nodes {
            coordinators.with(*asker, |coordinator, view| {
                coordinator.request_source(at, wanted(key), view)
            });
        }
        // Shards gather their questions before one asks.
        for step in 1..=4 {
            coordinators.deliver(at);
            coordinators.tick(Time(at.0 + 50 * step));
        }
        let first = decisions(&mut coordinators, &nodes);
        let leads: Vec<_> = first
            .iter()
            .filter(|(_, o)| **o == Decision::Lead)
            .collect();
        assert_eq!((first.len(), leads.len()), (1, 1), "{first:?}");
        let leader = *leads[0].0;
        let begun = PullProgress::Begun { size: 30_000_000 };
        coordinators.with(leader, |coordinator, view| {
            coordinator.report(Time(at.0 + 300), key, begun, view);
        });
        coordinators.deliver(Time(at.0 + 300));
        for step in 7..=9 {
            coordinators.tick(Time(at.0 + 50 * step));
        }
        let sources: BTreeMap<_, _> = decisions(&mut coordinators, &nodes)
            .into_iter()
            .map(|(n, decision)| match decision {
                Decision::Follow { source, .. } => (n, index(&source)),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sources.len(), nodes.len() - 1);
        // Whoever leads may lead all of an image: even its own shard has another head.
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
            coordinators.with(*node, |coordinator, view| {
                coordinator.report(Time(at.0 + 900), key, PullProgress::Done, view);
            });
        }
        coordinators.deliver(Time(at.0 + 900));
    }
}

#[test]
fn a_shard_waits_for_a_lead_that_is_queued() {
    let all = Directory::new(0..4_200);
    let mut coordinators = Coordinators::new(4_200, |_| &all);
    let nodes = some_of(&all, 3);
    let [first, second] = ["sha256:first", "sha256:second"].map(Key::of);
    let wanted = |key| SourceRequest {
        registry: 1,
        ..wanted(key)
    };
    let begun = PullProgress::Begun { size: 30_000_000 };
    // Other objects of the image.
    let receiving = ReceiveRates {
        total: 10_000_000,
        led: Vec::new(),
    };
    for asker in &nodes {
        coordinators.with(*asker, |coordinator, view| {
            coordinator.request_source(Time(0), wanted(second), view)
        });
    }
    coordinators.deliver(Time(0));
    let mut told = BTreeMap::new();
    for step in 1..=4 {
        coordinators.tick(Time(50 * step));
        told.extend(decisions(&mut coordinators, &nodes));
    }
    let [(leader, Decision::Lead)] = told.iter().collect::<Vec<_>>()[..] else {
        panic!("{told:?}");
    };
    // It is told to lead another one as well, which comes first.
    let leader = *leader;
    coordinators.with(leader, |coordinator, view| {
        coordinator.request_source(Time(250), wanted(first), view)
    });
    for step in 3..50 {
        let now = Time(100 * step);
        coordinators.deliver(now);
        coordinators.with(leader, |coordinator, view| {
            coordinator.report(now, first, begun, view);
        });
        for node in &nodes {
            coordinators.with(*node, |coordinator, view| {
                coordinator.observe(now, &receiving, view);
            });
        }
        coordinators.tick(now);
    }
    let others = nodes.iter().filter(|node| **node != leader);
    let told = decisions(&mut coordinators, &others.copied().collect::<Vec<_>>());
    assert!(told.is_empty(), "they wait at no charge: {told:?}");
    coordinators.with(leader, |coordinator, view| {
        coordinator.report(Time(5_000), second, begun, view);
    });
    for step in 50..54 {
        coordinators.deliver(Time(100 * step));
        coordinators.tick(Time(100 * step));
    }
    coordinators.with(leader, |coordinator, _| coordinator.take_decisions());
    let told = decisions(&mut coordinators, &nodes);
    let follow = told
        .values()
        .filter(|o| matches!(o, Decision::Follow { .. }));
    assert_eq!(follow.count(), nodes.len() - 1, "{told:?}");
}

#[test]
fn a_lead_that_asks_again_in_its_shard_leads_for_all() {
    let all = Directory::new(0..4_200);
    let mut coordinators = Coordinators::new(4_200, |_| &all);
    let nodes = some_of(&all, 1);
    let key = Key::of("sha256:asked twice");
    let is_apart = |node: &&usize| {
        all.shard_map(&id(**node))
            .owners(Slot::of(&key.0))
            .arbiter()
            != all
                .shard_map(&id(**node))
                .global_owners(Slot::of(&key.0))
                .arbiter()
    };
    let (mut apart, mut others) = (nodes.iter().filter(is_apart), nodes.iter());
    let leader = *apart.next().expect("three of four shards are");
    let other = *others.find(|node| **node != leader).expect("another shard");
    for at in [0, 1_000] {
        coordinators.with(leader, |coordinator, view| {
            coordinator.request_source(Time(at), wanted(key), view)
        });
        for step in 0..4 {
            coordinators.deliver(Time(at + 50 * step));
            coordinators.tick(Time(at + 50 * step));
        }
        let told = coordinators.with(leader, |coordinator, _| coordinator.take_decisions());
        assert!(matches!(told[..], [(_, Decision::Lead)]), "{told:?}");
    }
    for step in 10..50 {
        coordinators.deliver(Time(100 * step));
        coordinators.tick(Time(100 * step));
    }
    let now = 5_000;
    coordinators.with(other, |coordinator, view| {
        coordinator.request_source(Time(now), wanted(key), view)
    });
    for step in 0..4 {
        coordinators.deliver(Time(now + 50 * step));
        coordinators.tick(Time(now + 50 * step));
    }
    let told = coordinators.with(other, |coordinator, _| coordinator.take_decisions());
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn what_is_kept_back_gives_its_place_up() {
    let all = Directory::new(0..4_200);
    let nodes = some_of(&all, 1);
    let mut coordinators = Coordinators::new(4_200, |_| &all);
    let keys = ["a", "b", "c"].map(Key::of);
    coordinators.with(nodes[0], |coordinator, _| coordinator.hold(Time(0), &keys));
    coordinators.tick(Time(100));
    coordinators.tick(Time(200));
    for key in keys {
        let wanted = SourceRequest {
            requeue_after_ms: 200,
            ..wanted(key)
        };
        coordinators.with(nodes[1], |coordinator, view| {
            coordinator.request_source(Time(300), wanted, view)
        });
    }
    let mut told = Vec::new();
    for now in (300..=600).step_by(50).map(Time) {
        coordinators.deliver(now);
        coordinators.tick(now);
        told.extend(coordinators.with(nodes[1], |coordinator, _| coordinator.take_decisions()));
    }
    let count = |is: fn(&Decision) -> bool| told.iter().filter(|(_, o)| is(o)).count();
    assert_eq!(
        count(|o| matches!(o, Decision::Follow { .. })),
        1,
        "{told:?}"
    );
    assert_eq!(count(|o| *o == Decision::Later), 2, "{told:?}");
}
