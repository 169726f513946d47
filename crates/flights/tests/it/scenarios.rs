//! The required outcomes of the scenarios of the design, as far as they show without bytes.

use std::collections::BTreeMap;

use flights::{Decision, Key, PullProgress, nodes_field};

use crate::cluster::{Cluster, id, index, wanted};

const BEGUN: PullProgress = PullProgress::Begun { size: 32 << 20 };

/// A key whose arbiter is the last node, which takes no part.
fn flown(cluster: &Cluster) -> Key {
    cluster.key_of_arbiter(cluster.len() - 1)
}

#[test]
fn of_two_equally_far_whose_leader_dies_one_leads_on() {
    let mut cluster = Cluster::new(4);
    let key = flown(&cluster);
    cluster.request_source(0, key);
    cluster.await_decisions(1, 10);
    cluster.report(0, key, BEGUN);
    for follower in [1, 2] {
        cluster.request_source(follower, key);
        cluster.await_decisions(1, 10);
        cluster.report(follower, key, BEGUN);
    }
    cluster.kill(0);
    for follower in [1, 2] {
        let (offset, failed) = (16 << 20, nodes_field([id(0)]));
        let again = wanted(key);
        cluster.request_source_for(
            follower,
            flights::SourceRequest {
                offset,
                failed_sources: failed,
                ..again
            },
        );
    }
    let mut taken = cluster.await_decisions(2, 100);
    taken.sort_by_key(|(_, _, decision)| *decision != Decision::Lead);
    let [
        (leader, _, Decision::Lead),
        (_, _, Decision::Follow { source, .. }),
    ] = &taken[..]
    else {
        panic!("{taken:?}");
    };
    assert_eq!(index(source), *leader);
}

#[test]
fn who_may_not_pull_does_not_lead_again_for_minutes_while_others_ask() {
    let mut cluster = Cluster::new(5);
    let start = cluster.now;
    let mut denied = None;
    for object in 0..40 {
        let key = Key::of(&format!("sha256:{object}"));
        for n in 0..5 {
            cluster.request_source(n, key);
        }
        let (mut leader, ..) = cluster.await_decisions(1, 50).remove(0);
        if denied.is_none() {
            denied = Some(leader);
            cluster.run(500);
            cluster.report(leader, key, PullProgress::Failed);
            let next = cluster.await_decisions(1, 50).remove(0);
            assert_eq!(next.2, Decision::Lead);
            assert!(cluster.now - start < 2_000);
            leader = next.0;
            cluster.request_source(denied.expect("just seen"), key);
        }
        assert_ne!(Some(leader), denied, "{object}");
        cluster.report(leader, key, BEGUN);
        for (_, _, decision) in cluster.await_decisions(4, 300) {
            assert!(matches!(decision, Decision::Follow { .. }), "{decision:?}");
        }
        for n in 0..5 {
            cluster.report(n, key, PullProgress::Done);
        }
        cluster.run(4_000);
    }
    // It may lead if no other node does.
    cluster.request_source(denied.expect("the first"), Key::of("sha256:alone"));
    let asked = cluster.now;
    assert_eq!(
        cluster.await_decisions(1, 1_200).remove(0).2,
        Decision::Lead
    );
    assert!(
        cluster.now - asked >= 1_000,
        "others could have asked before"
    );
}

/// Six nodes are split into two parts, without a refusal or notice. No node waits longer than its budget. There are at
/// most as many leads and pulls alone as parts and disputed owners: two parts of three nodes, where each part has an
/// arbiter or asks up to three owners in vain.
#[test]
fn parts_lead_once_each_and_nobody_is_stuck() {
    let mut most = [0; 2];
    for object in 0..20 {
        let key = Key::of(&format!("sha256:{object}"));
        for (moment, wait) in [0, 60_000].into_iter().enumerate() {
            let mut cluster = Cluster::seeded(6, object + 1);
            cluster.split(|node| node % 2);
            cluster.run(wait);
            for n in 0..6 {
                cluster.request_source(n, key);
            }
            let (asked, mut pulling, mut settled) = (cluster.now, 0, 0);
            while settled < 6 {
                assert!(
                    cluster.now - asked <= 3_000,
                    "object {object}: somebody is stuck"
                );
                cluster.run(1);
                for (n, decision) in cluster.taken() {
                    settled += 1;
                    if matches!(decision, Decision::Lead | Decision::Alone) {
                        pulling += 1;
                        cluster.report(n, key, BEGUN);
                    }
                }
            }
            most[moment] = pulling.max(most[moment]);
        }
    }
    println!(
        "upstream by two parts: at once {}, when they know {}",
        most[0], most[1]
    );
    assert!(most[0] <= 4, "at once: {}", most[0]);
    assert_eq!(most[1], 2, "when they know of each other's loss");
}

#[test]
fn who_joins_while_all_pull_follows() {
    let mut cluster = Cluster::new(8);
    for object in 0..20 {
        let key = Key::of(&format!("sha256:{object}"));
        for n in 0..8 {
            cluster.request_source(n, key);
        }
        let (leader, ..) = cluster.await_decisions(1, 50).remove(0);
        cluster.report(leader, key, BEGUN);
    }
    cluster.run(500);
    cluster.taken();
    let joiner = cluster.add(&[0]);
    let asked = cluster.now;
    for object in 0..20 {
        cluster.request_source(joiner, Key::of(&format!("sha256:{object}")));
    }
    for (_, _, decision) in cluster.await_decisions(20, 150) {
        assert!(matches!(decision, Decision::Follow { .. }), "{decision:?}");
    }
    println!("20 objects found {:?} after the start", cluster.time(asked));
}

/// 256 nodes join three others and request the same five objects at the same moment.
#[test]
fn a_crowd_that_joins_and_asks_at_once_pulls_three_times_at_most() {
    let mut cluster = Cluster::new(3);
    cluster.latency = 5;
    let keys: Vec<_> = (0..5).map(|n| Key::of(&format!("sha256:{n}"))).collect();
    let crowd: Vec<_> = (0..256).map(|_| cluster.add(&[0, 1, 2])).collect();
    let asked = cluster.now;
    let mut requests = BTreeMap::new();
    for n in crowd {
        for key in &keys {
            requests.insert((n, cluster.request_source(n, *key)), *key);
        }
    }
    let mut pulls = BTreeMap::new();
    let mut begins = Vec::new();
    while !requests.is_empty() {
        assert!(
            cluster.now - asked < 3_000,
            "{} are not settled",
            requests.len()
        );
        cluster.run(1);
        for (n, request, decision) in cluster.decisions() {
            let key = requests.remove(&(n, request)).expect("it was asked");
            if matches!(decision, Decision::Lead | Decision::Alone) {
                *pulls.entry(key).or_insert(0) += 1;
                begins.push((cluster.now + 300, n, key));
            }
        }
        for (_, n, key) in begins
            .extract_if(.., |(at, ..)| *at <= cluster.now)
            .collect::<Vec<_>>()
        {
            cluster.report(n, key, BEGUN);
        }
    }
    println!(
        "pulls of each object: {:?}, all settled after {:?}",
        pulls.values(),
        cluster.time(asked)
    );
    assert!(pulls.values().all(|pulls| *pulls <= 3), "{pulls:?}");
}

/// A connection breaks for less time than it takes to suspect a member, and its messages are lost.
#[test]
fn what_an_owner_could_not_be_told_reaches_it_once_it_can_be_reached() {
    let mut cluster = Cluster::new(4);
    let keys = [Key::of("before"), Key::of("meanwhile")];
    let lost = |cluster: &mut Cluster| {
        for owner in 1..4 {
            cluster.with(0, |node, now| node.undelivered(now, id(owner)));
        }
    };
    cluster.lost = 1_000;
    cluster.with(0, |node, now| node.hold(now, &keys[..1]));
    cluster.run(50);
    lost(&mut cluster);
    cluster.with(0, |node, now| node.hold(now, &keys[1..]));
    cluster.run(50);
    lost(&mut cluster);
    cluster.lost = 0;
    cluster.run(10_000);
    for key in keys {
        for asker in 1..4 {
            cluster.with(asker, |node, now| node.find_holders(now, key));
            cluster.run(100);
            assert_eq!(
                cluster.found(asker),
                [id(0)],
                "as node {asker} finds {key:?}"
            );
        }
    }
}

/// The next owner is asked after 400 ms. For 600 ms from its suspicion on, it waits for reports of other leads.
#[test]
fn where_the_leader_that_is_cut_off_is_the_arbiter_too_the_next_owner_soon_grants_another_lead() {
    let mut cluster = Cluster::new(4);
    let key = cluster.key_of_arbiter(0);
    for node in 0..3 {
        cluster.request_source(node, key);
        cluster.await_decisions(1, 10);
        cluster.report(node, key, BEGUN);
    }
    cluster.run(5_000);
    cluster.split(|node| usize::from(node == 0));
    cluster.run(1_000);
    let again = flights::SourceRequest {
        offset: 16 << 20,
        failed_sources: nodes_field([id(0)]),
        ..wanted(key)
    };
    cluster.request_source_for(1, again);
    let taken = cluster.await_decisions(1, 1_100);
    assert!(matches!(taken[..], [(1, _, Decision::Lead)]), "{taken:?}");
}
