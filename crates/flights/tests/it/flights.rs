//! Nodes that pull together: the scenarios of the design that need no bytes.

use flights::{Decision, Key, PullProgress, SourceRequest, nodes_field};

use crate::cluster::{Cluster, id, index, wanted};

#[test]
fn one_leads_and_the_others_form_a_chain() {
    let mut cluster = Cluster::new(6);
    let key = Key::of("sha256:a");
    for n in 0..6 {
        cluster.request_source(n, key);
    }
    cluster.run(20);
    let first = cluster.taken();
    let [(leader, Decision::Lead)] = first[..] else {
        panic!("one leads and nobody else has an answer yet: {first:?}");
    };
    cluster.run(200);
    let size = 32 * 1024 * 1024;
    cluster.report(leader, key, PullProgress::Begun { size });
    cluster.run(20);
    let mut sources: Vec<_> = cluster
        .taken()
        .into_iter()
        .map(|(n, decision)| match decision {
            Decision::Follow { source, .. } => {
                assert_ne!(index(&source), n);
                index(&source)
            }
            other => panic!("{n}: {other:?}"),
        })
        .collect();
    assert_eq!(sources.len(), 5);
    sources.sort_unstable();
    sources.dedup();
    assert_eq!(sources.len(), 5, "nobody feeds two");
}

#[test]
fn the_next_leads_when_the_first_may_not() {
    let mut cluster = Cluster::new(4);
    let key = Key::of("sha256:b");
    for n in 0..4 {
        cluster.request_source(n, key);
    }
    cluster.run(50);
    let first = cluster.taken();
    let [(leader, Decision::Lead)] = first[..] else {
        panic!("{first:?}");
    };
    cluster.report(leader, key, PullProgress::Failed);
    cluster.run(50);
    let second = cluster.taken();
    let [(next, Decision::Lead)] = second[..] else {
        panic!("{second:?}");
    };
    assert_ne!(leader, next);
    cluster.request_source(leader, key);
    cluster.run(15_000);
    let rest = cluster.taken();
    let leads = rest.iter().filter(|(_, o)| *o == Decision::Lead).count();
    let alone = rest.iter().filter(|(_, o)| *o == Decision::Alone).count();
    assert_eq!(
        (leads, alone),
        (1, 2),
        "one tries as well, and whoever waits for leads that never begin goes upstream: {rest:?}"
    );
}

/// The lead of a node that has failed as a leader is held for others, until the registry has sent it something.
#[test]
fn after_an_outage_of_the_registry_only_the_first_lead_is_held() {
    let mut cluster = Cluster::new(3);
    let key = |n| Key::of(&format!("sha256:outage {n}"));
    cluster.request_source(0, key(0));
    cluster.run(100);
    assert_eq!(cluster.taken(), [(0, Decision::Lead)]);
    cluster.report(0, key(0), PullProgress::Failed);
    cluster.run(100);
    for n in 1..12 {
        cluster.request_source(0, key(n));
        let asked = cluster.now;
        let decided = loop {
            cluster.run(10);
            let taken = cluster.taken();
            if !taken.is_empty() {
                break taken;
            }
        };
        assert_eq!(decided, [(0, Decision::Lead)], "{n}");
        let is_held = cluster.now - asked >= 1_000;
        assert_eq!(is_held, n == 1, "{n}");
        cluster.report(0, key(n), PullProgress::Begun { size: 1_000 });
        cluster.report(0, key(n), PullProgress::Done);
    }
}

#[test]
fn who_has_it_feeds_the_others() {
    let mut cluster = Cluster::new(5);
    let key = Key::of("sha256:c");
    cluster.with(3, |node, now| node.hold(now, &[key]));
    cluster.run(200);
    cluster.request_source(1, key);
    cluster.run(10);
    let decision = cluster.taken();
    assert!(
        matches!(&decision[..], [(1, Decision::Follow { source, .. })] if *source == id(3)),
        "{decision:?}"
    );
    cluster.with(0, |node, now| node.find_holders(now, key));
    cluster.run(10);
    assert_eq!(cluster.found(0), [id(3)]);
    cluster.with(3, |node, now| node.release(now, &[key]));
    cluster.run(200);
    cluster.with(0, |node, now| node.find_holders(now, key));
    cluster.run(10);
    assert_eq!(cluster.found(0), []);
}

#[test]
fn an_arbiter_that_dies_costs_no_answer() {
    let mut cluster = Cluster::new(5);
    for object in 0..40 {
        let key = Key::of(&format!("sha256:{object}"));
        if object == 20 {
            cluster.kill(2);
        }
        let alive: Vec<_> = (0..5).filter(|n| cluster.is_up(*n)).collect();
        for n in &alive {
            cluster.request_source(*n, key);
        }
        // An arbiter that takes over first waits for reports of existing leads.
        cluster.run(if object == 20 { 1_000 } else { 100 });
        let taken = cluster.taken();
        let [(leader, Decision::Lead)] = taken[..] else {
            panic!("{object}: {taken:?}");
        };
        cluster.report(leader, key, PullProgress::Begun { size: 1 });
        cluster.run(100);
        let followers = cluster.taken();
        assert_eq!(followers.len(), alive.len() - 1, "{object}");
        for (follower, _) in followers {
            cluster.report(follower, key, PullProgress::Begun { size: 1 });
        }
    }
}

/// A node that serves no other any more is reported to itself as a failed source. It stays the arbiter.
#[test]
fn an_arbiter_that_failed_as_a_source_decides_on() {
    let mut cluster = Cluster::new(4);
    let key = Key::of("sha256:a");
    let arbiter = cluster.arbiter(&key);
    let asker = (arbiter + 1) % 4;
    let request = SourceRequest {
        failed_sources: nodes_field([id(arbiter)]),
        ..wanted(key)
    };
    cluster.request_source_for(asker, request);
    cluster.await_decisions(1, 100);
    // By then a dead node does not count.
    cluster.run(1_000);
    let other = (arbiter + 2) % 4;
    let key = cluster.key_of_arbiter(arbiter);
    cluster.request_source(other, key);
    let decisions = cluster.await_decisions(1, 20);
    assert!(
        matches!(decisions[..], [(_, _, Decision::Lead)]),
        "{decisions:?}"
    );
}
