//! Convergence, deaths, partitions.

use std::time::Duration;

use crate::net::{Net, id};

const SEEDS: [usize; 3] = [0, 1, 2];

/// A cluster of `nodes` that all know each other.
fn cluster(nodes: usize, seed: u64) -> Net {
    let mut net = seeds(seed);
    join_all(&mut net, nodes, Duration::from_millis(500));
    net.run_until(Duration::from_secs(60), Net::agree)
        .expect("the cluster converges");
    // Gossip ends.
    net.run(Duration::from_secs(10));
    net
}

fn seeds(seed: u64) -> Net {
    let mut net = Net::new(seed);
    for _ in SEEDS {
        net.start(&SEEDS);
    }
    net.run(Duration::from_secs(30));
    assert!(net.agree());
    net
}

/// The rest of `nodes` join the seeds within `time`.
fn join_all(net: &mut Net, nodes: usize, time: Duration) {
    let rest = nodes - SEEDS.len();
    for _ in 0..rest {
        net.start(&SEEDS);
        net.run(time / u32::try_from(rest).expect("a small number"));
    }
}

/// The time until all nodes know 99 % of the others, and the messages and bytes that each sends until it knows all. A
/// node that missed the answer of a newcomer learns of it by comparing lists.
fn mass_join(nodes: usize) -> (Duration, f64, f64) {
    let mut net = seeds(1);
    let (sent, bytes) = (net.sent(), net.bytes());
    join_all(&mut net, nodes, Duration::from_secs(1));
    let knows_most = |net: &Net| {
        let mut known = net.nodes.iter().map(|node| node.members.len());
        known.all(|known| known * 100 >= nodes * 99)
    };
    let time = net.run_until(Duration::from_secs(60), knows_most);
    let time = time.expect("converges");
    net.run_until(Duration::from_secs(60), Net::agree)
        .expect("all know all");
    let per_node = |count: u64| count as f64 / nodes as f64;
    (
        time,
        per_node(net.sent() - sent),
        per_node(net.bytes() - bytes),
    )
}

/// Measured: all but the three seeds join within 1 s; times count from the last join until all know all. 16 nodes: 0.3
/// s, 36 messages and 8.6 kB sent by each; 64: 2.0 s, 90, 43 kB; 256: 2.8 s, 287, 208 kB; 1,024: 31 s (99 % within 4
/// s), 754, 1,380 kB. Signatures are half of the bytes.
#[test]
fn nodes_that_join_together_converge() {
    for nodes in [16, 64, 256, 1_024] {
        let (time, messages, bytes) = mass_join(nodes);
        println!("{nodes}: {time:?} {messages:.0} messages {bytes:.0} bytes per node");
        assert!(time < Duration::from_secs(6), "{nodes} nodes took {time:?}");
    }
}

/// Measured, until no node lists it: 16 nodes 12 s, 64 15 s, 256 20 s. With a probability of 95 % it is probed within
/// three periods; the limits leave room for the rest.
#[test]
fn a_death_is_noticed() {
    for (nodes, limit) in [(16, 15), (64, 20), (256, 30)] {
        let mut net = cluster(nodes, 2);
        net.nodes[5].up = false;
        let time = net.run_until(Duration::from_secs(limit), |net| net.knowing(5) == 0);
        println!("{nodes}: {time:?}");
        assert!(time.is_some(), "{nodes} nodes: not within {limit} s");
        assert!(net.agree(), "no other member was declared dead");
    }
}

#[test]
fn a_death_is_noticed_sooner_after_a_failed_message() {
    let mut net = cluster(64, 3);
    net.nodes[5].up = false;
    net.on(9, |members, now| members.probe_now(now, id(5)));
    let time = net.run_until(Duration::from_secs(10), |net| net.knowing(5) == 0);
    println!("{time:?}");
    assert!(time.is_some());
}

/// Measured: 64 nodes 0.3 s, 256 0.5 s.
#[test]
fn a_node_that_leaves_is_removed_at_once() {
    for nodes in [3, 64, 256] {
        let mut net = cluster(nodes, 4);
        net.on(2, |members, _| members.leave());
        net.nodes[2].up = false;
        let time = net.run_until(Duration::from_secs(3), |net| net.knowing(2) == 0);
        println!("{nodes}: {time:?}");
        assert!(time.is_some(), "{nodes} nodes");
    }
}

#[test]
fn lost_messages_cause_no_departures() {
    let mut net = cluster(64, 5);
    net.loss_per_mille = 50;
    net.departures = 0;
    net.run(Duration::from_secs(1_800));
    assert_eq!(
        net.departures, 0,
        "64 nodes, half an hour, 5 % of messages lost"
    );
    assert!(net.agree());
}

/// Measured, until all nodes know each other again: 64 nodes 1.4 s.
#[test]
fn a_partition_heals() {
    let mut net = cluster(64, 6);
    net.split(|node| usize::from(node % 4 == 0));
    net.run(Duration::from_secs(90));
    assert_eq!(net.nodes[0].members.len(), 16);
    assert_eq!(net.nodes[1].members.len(), 48);
    net.split(|_| 0);
    net.departures = 0;
    let time = net.run_until(Duration::from_secs(60), Net::agree);
    println!("{time:?}");
    assert!(time.is_some());
    net.run(Duration::from_secs(60));
    assert_eq!(net.departures, 0, "neither part declares the other dead");
}

#[test]
fn a_member_wrongly_declared_dead_returns_with_its_age() {
    let mut net = cluster(16, 7);
    let born = net.nodes[0].members.get(&id(9)).expect("a member").born;
    net.split(|node| usize::from(node == 9));
    net.run(Duration::from_secs(40));
    assert_eq!(net.knowing(9), 1, "it knows itself");
    net.split(|_| 0);
    net.run_until(Duration::from_secs(60), Net::agree)
        .expect("it comes back");
    let after = net.nodes[0].members.get(&id(9)).expect("a member");
    assert!(after.incarnation > 0);
    assert_eq!(after.born.max(born), after.born, "an age is never too high");
    assert!(after.born.age(flights::Time(net.now)) > Duration::from_secs(45));
}

#[test]
fn a_restarted_process_is_a_new_member_at_once() {
    let mut net = cluster(16, 8);
    net.run(Duration::from_secs(60));
    net.restart(9, &SEEDS);
    net.run(Duration::from_secs(5));
    assert!(net.agree());
    for node in &net.nodes {
        let it = node.members.get(&id(9)).expect("a member");
        assert_eq!(it.incarnation, 1);
    }
    let seen = net.nodes[0].members.get(&id(9)).expect("a member").born;
    let age = seen.age(flights::Time(net.now));
    assert!(age < Duration::from_secs(6), "{age:?}");
}

#[test]
fn a_node_without_an_answer_from_a_seed_is_a_cluster_of_its_own() {
    let mut net = Net::new(9);
    let alone = net.start(&[]);
    assert!(net.nodes[alone].members.has_joined());
    let isolated = net.start(&[7]);
    assert!(!net.nodes[isolated].members.has_joined());
    net.run(Duration::from_secs(6));
    assert!(net.nodes[isolated].members.has_joined());
    // It keeps asking, and finds the seed once there is one.
    (2..8).for_each(|_| {
        net.start(&[isolated]);
    });
    net.nodes[alone].up = false;
    assert!(net.run_until(Duration::from_secs(10), Net::agree).is_some());
}

#[test]
fn new_addresses_reach_all_members() {
    use flights::members::Contact;
    let mut net = cluster(16, 10);
    let elsewhere = Contact::new(vec![([10, 9, 9, 9], 1).into()], Vec::new());
    net.on(3, |members, now| {
        members.set_contact(now, elsewhere.clone());
    });
    let moved = |net: &Net| {
        net.nodes
            .iter()
            .all(|node| *node.members.get(&id(3)).expect("a member").contact == elsewhere)
    };
    assert!(net.run_until(Duration::from_secs(3), moved).is_some());
    assert!(net.agree());
}
