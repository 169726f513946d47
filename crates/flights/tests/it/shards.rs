//! Nodes of several shards pull together.

use std::collections::BTreeMap;

use flights::slots::{Scope, Slot};
use flights::{
    Decision, Key, NodeId, PullProgress, Received, SourceRequest, Time, node_field, nodes_field,
};

use crate::cluster::{id, index, wanted};
use crate::coordinators::{Coordinators, Directory};

/// Some nodes of each shard, in a cluster of four shards.
fn some_of(all: &Directory, of_each: usize) -> Vec<usize> {
    let mut by_shard = BTreeMap::<Scope, Vec<usize>>::new();
    for n in 0..all.members {
        by_shard.entry(all.shard_of(n)).or_default().push(n);
    }
    assert_eq!(by_shard.len(), 4);
    by_shard
        .values()
        .flat_map(|nodes| nodes[..of_each].to_vec())
        .collect()
}

/// The holders that a lookup has found.
fn found(coordinators: &mut Coordinators<'_>, asker: usize) -> Vec<NodeId> {
    let mut found = coordinators.with(asker, |coordinator, _| coordinator.take_found());
    assert_eq!(found.len(), 1);
    found.remove(0).1
}

/// The decisions for these nodes since the last call.
fn decisions(coordinators: &mut Coordinators<'_>, nodes: &[usize]) -> BTreeMap<usize, Decision> {
    let each = nodes
        .iter()
        .map(|n| (*n, coordinators.with(*n, |d, _| d.take_decisions())));
    each.flat_map(|(n, all)| all.into_iter().map(move |(_, o)| (n, o)))
        .collect()
}

#[test]
fn what_one_shard_holds_the_others_find() {
    let all = Directory::new(0..4_200);
    let mut coordinators = Coordinators::new(4_200, |_| &all);
    let nodes = some_of(&all, 2);
    let holder = nodes[0];
    let keys: Vec<_> = (0..50).map(|n| Key::of(&format!("sha256:{n}"))).collect();
    coordinators.with(holder, |coordinator, _| coordinator.hold(Time(0), &keys));
    coordinators.tick(Time(100));
    for key in &keys {
        for asker in &nodes[1..] {
            coordinators.with(*asker, |coordinator, view| {
                coordinator.find_holders(Time(300), *key, view)
            });
            assert!(coordinators.deliver(Time(300)) <= 6, "from shard to shard");
            assert_eq!(found(&mut coordinators, *asker), [id(holder)]);
        }
    }
    // No node is sent to it for what it no longer holds.
    coordinators.with(holder, |coordinator, _| {
        coordinator.release(Time(400), &keys);
    });
    coordinators.tick(Time(500));
    for key in &keys {
        coordinators.with(nodes[7], |coordinator, view| {
            coordinator.find_holders(Time(700), *key, view)
        });
        coordinators.deliver(Time(700));
        assert_eq!(found(&mut coordinators, nodes[7]), []);
    }
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
        // Shards gather their requests before one node asks.
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
        // A node may lead all objects of an image: even its own shard has another head.
        let fed = sources.values().filter(|source| **source == leader);
        assert_eq!(fed.count(), 1, "{sources:?}");
        // All bytes come from the leader.
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
    let receiving = Received {
        rate: 10_000_000,
        led_bytes: Vec::new(),
    };
    let other = |node: &usize| Key::of(&format!("sha256:other {node}"));
    for node in &nodes {
        coordinators.with(*node, |coordinator, view| {
            coordinator.request_source(Time(0), wanted(other(node)), view)
        });
    }
    coordinators.deliver(Time(0));
    let mut led = BTreeMap::new();
    for step in 1..=4 {
        coordinators.tick(Time(50 * step));
        led.extend(decisions(&mut coordinators, &nodes));
    }
    assert!(
        nodes.iter().all(|node| led[node] == Decision::Lead),
        "{led:?}"
    );
    for node in &nodes {
        coordinators.with(*node, |coordinator, view| {
            coordinator.report(Time(200), other(node), begun, view);
        });
    }
    for asker in &nodes {
        coordinators.with(*asker, |coordinator, view| {
            coordinator.request_source(Time(300), wanted(second), view)
        });
    }
    coordinators.deliver(Time(300));
    let mut told = BTreeMap::new();
    for step in 1..=4 {
        coordinators.tick(Time(300 + 50 * step));
        told.extend(decisions(&mut coordinators, &nodes));
    }
    let [(leader, Decision::Lead)] = told.iter().collect::<Vec<_>>()[..] else {
        panic!("{told:?}");
    };
    // It is told to lead another one as well, which comes first.
    let leader = *leader;
    coordinators.with(leader, |coordinator, view| {
        coordinator.request_source(Time(550), wanted(first), view)
    });
    for step in 3..50 {
        let now = Time(300 + 100 * step);
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
        coordinators.deliver(Time(300 + 100 * step));
        coordinators.tick(Time(300 + 100 * step));
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
    let slot = Slot::of(&key.0);
    let is_apart = |node: &&usize| {
        let scopes = [all.shard_of(**node), Scope::Cluster];
        let [own, global] = scopes.map(|scope| all.slots.owners(scope, slot).arbiter());
        own != global
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

/// Otherwise the global arbiter would hold the lead for a node that has nothing else to do.
#[test]
fn the_global_arbiter_learns_what_a_node_says_while_it_waits() {
    let all = Directory::new(0..4_200);
    let mut coordinators = Coordinators::new(4_200, |_| &all);
    let nodes = some_of(&all, 2);
    let (node, better) = (nodes[0], nodes[4]);
    let led = Key::of("sha256:led");
    let request = |key| SourceRequest {
        leads_at_once: true,
        ..wanted(key)
    };
    let receiving = Received {
        rate: 1_000_000,
        led_bytes: Vec::new(),
    };
    let run = |coordinators: &mut Coordinators<'_>, millis: std::ops::Range<u64>| {
        let mut told = Vec::new();
        for now in millis.step_by(50).map(Time) {
            coordinators.with(node, |coordinator, view| {
                coordinator.observe(now, &receiving, view);
            });
            coordinators.deliver(now);
            coordinators.tick(now);
            told.extend(decisions(coordinators, &[node]).into_values());
        }
        told
    };
    coordinators.with(node, |coordinator, view| {
        coordinator.request_source(Time(0), request(led), view)
    });
    assert_eq!(run(&mut coordinators, 0..500), [Decision::Lead]);
    coordinators.with(node, |coordinator, view| {
        let begun = PullProgress::Begun { size: 30_000_000 };
        coordinator.report(Time(500), led, begun, view);
        let waits = SourceRequest {
            preferred_leader: node_field(Some(id(better))),
            ..request(Key::of("sha256:awaited"))
        };
        coordinator.request_source(Time(500), waits, view)
    });
    assert_eq!(run(&mut coordinators, 500..5_000), [], "it leads another");
    coordinators.with(node, |coordinator, view| {
        coordinator.report(Time(5_000), led, PullProgress::Done, view);
    });
    assert_eq!(run(&mut coordinators, 5_000..5_200), [Decision::Lead]);
}

/// Requests an object for which other shards may have to be searched. Returns the decision.
fn ask(coordinators: &mut Coordinators<'_>, node: usize, key: Key, at: u64) -> Option<Decision> {
    coordinators.with(node, |coordinator, view| {
        coordinator.request_source(Time(at), wanted(key), view)
    });
    for step in 0..4 {
        coordinators.deliver(Time(at + 50 * step));
        coordinators.tick(Time(at + 50 * step));
    }
    decisions(coordinators, &[node]).remove(&node)
}

fn source(decision: Option<Decision>) -> usize {
    match decision {
        Some(Decision::Follow { source, .. }) => index(&source),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_one_shard_holds_the_others_follow() {
    let all = Directory::new(0..4_200);
    let mut coordinators = Coordinators::new(4_200, |_| &all);
    let nodes = some_of(&all, 2);
    let (holder, key) = (nodes[4], Key::of("sha256:held"));
    coordinators.with(holder, |coordinator, _| coordinator.hold(Time(0), &[key]));
    coordinators.tick(Time(100));
    let first = ask(&mut coordinators, nodes[0], key, 300);
    assert_eq!(source(first), holder);
    let near = ask(&mut coordinators, nodes[1], key, 600);
    assert_eq!(source(near), nodes[0], "the fetcher of its shard");
    let far = source(ask(&mut coordinators, nodes[2], key, 900));
    assert!([holder, nodes[0]].contains(&far), "{far}");
    // A failed source is not named to the node again, and no other node of another shard has it.
    let failed = SourceRequest {
        failed_sources: nodes_field([holder, nodes[0], nodes[1], nodes[2]].map(id)),
        ..wanted(key)
    };
    coordinators.with(nodes[6], |coordinator, view| {
        coordinator.request_source(Time(1_200), failed, view)
    });
    for step in 0..4 {
        coordinators.deliver(Time(1_200 + 50 * step));
        coordinators.tick(Time(1_200 + 50 * step));
    }
    let last = decisions(&mut coordinators, &nodes).remove(&nodes[6]);
    assert_eq!(last, Some(Decision::Lead));
}

#[test]
fn a_shard_leads_itself_if_the_global_arbiter_is_silent() {
    let all = Directory::new(0..4_200);
    let mut coordinators = Coordinators::new(4_200, |_| &all);
    let nodes = some_of(&all, 2);
    let key = Key::of("sha256:silent");
    let global = all.slots.owners(Scope::Cluster, Slot::of(&key.0)).arbiter();
    coordinators.silence(index(&global.expect("there are shards")));
    for node in &nodes[..2] {
        coordinators.with(*node, |coordinator, view| {
            coordinator.request_source(Time(0), wanted(key), view)
        });
    }
    let mut told = BTreeMap::new();
    for now in (0..1_300).step_by(50).map(Time) {
        coordinators.deliver(now);
        coordinators.tick(now);
        told.extend(decisions(&mut coordinators, &nodes[..2]));
    }
    assert_eq!(told.len(), 1, "the other one waits: {told:?}");
    assert!(told.values().all(|decision| *decision == Decision::Lead));
}
