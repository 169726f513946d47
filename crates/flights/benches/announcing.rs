//! The CPU cost of announcing and renewing, by the scheduler's accounting: whole nodes in one thread, announcers and
//! owners, without connections and encryption. `cargo bench -p flights`; it takes a minute and some GB.
//!
//! Measured, in milliseconds of CPU for each node, its own work and that of the owners. 16 nodes: 4.1 to announce and
//! 0.16 to renew where each has keys of its own, 1.5 and 0.11 where all have the same. 1,024 nodes: 7.0 and 0.73, 1.9
//! and 0.50. Renewing every ten minutes is 0.0001 % of a core.

#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../tests/it/cluster.rs"]
mod cluster;

use std::fs;
use std::time::Duration;

use flights::Key;

use cluster::Cluster;

const KEYS: usize = 2_000;
/// The interval between renewals, and what is left unmeasured before and after one, in milliseconds.
const PERIOD: u64 = 600_000;
const MARGIN: u64 = 5_000;

/// The CPU time of this thread.
fn spent() -> Duration {
    // The scheduler accounts a thread that runs on only at ticks, one that yields at once.
    std::thread::yield_now();
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux with schedstat");
    let nanos = text.split(' ').next().expect("three numbers").parse();
    Duration::from_nanos(nanos.expect("a number"))
}

/// The CPU time, messages and bytes that all nodes take in `millis` of virtual time.
fn cost(cluster: &mut Cluster, millis: u64) -> (Duration, u64, u64) {
    let (cpu, messages, bytes) = (spent(), cluster.messages, cluster.bytes);
    cluster.run(millis);
    (
        spent().saturating_sub(cpu),
        cluster.messages - messages,
        cluster.bytes - bytes,
    )
}

fn grown(nodes: usize) -> Cluster {
    let mut cluster = Cluster::empty(1);
    for _ in 0..nodes {
        cluster.add(&[0]);
        cluster.run(2);
    }
    // Until all nodes know each other and are eligible.
    cluster.run(60_000);
    for node in 0..nodes {
        assert_eq!(cluster.node(node).members().len(), nodes);
    }
    cluster
}

fn measure(nodes: usize, what: &str, keys: impl Fn(usize) -> Vec<Key>) {
    let mut cluster = grown(nodes);
    let rest = cost(&mut cluster, 2 * MARGIN);
    let keys: Vec<_> = (0..nodes).map(keys).collect();
    let before = spent();
    for (node, keys) in keys.iter().enumerate() {
        cluster.with(node, |node, now| node.hold(now, keys));
    }
    let holding = spent().saturating_sub(before);
    let mut announcing = cost(&mut cluster, 2 * MARGIN);
    announcing.0 += holding;
    cluster.run(PERIOD - 3 * MARGIN);
    let renewing = cost(&mut cluster, 2 * MARGIN);
    let each = |(cpu, messages, bytes): (Duration, u64, u64)| {
        let nodes = nodes as f64;
        let cpu = cpu.saturating_sub(rest.0).as_secs_f64() / nodes;
        let count = |all: u64, at_rest: u64| all.saturating_sub(at_rest) as f64 / nodes;
        (
            cpu * 1e3,
            count(messages, rest.1),
            count(bytes, rest.2) / 1e3,
        )
    };
    println!(
        "{nodes} nodes, {what}: at rest {:.2} µs a second each",
        rest.0.as_secs_f64() * 1e9 / (2 * MARGIN * nodes as u64) as f64
    );
    for (what, cost) in [("announcing", announcing), ("renewing", renewing)] {
        let (cpu, messages, bytes) = each(cost);
        let percent = cpu * 1e2 / PERIOD as f64;
        println!(
            "  {what}: {cpu:.3} ms, {messages:.0} messages, {bytes:.1} kB each; {percent:.6} % of a core over 600 s"
        );
    }
}

fn main() {
    let key = |node: usize, n: usize| Key::of(&format!("sha256:{node}-{n}"));
    for nodes in [16, 1_024] {
        measure(nodes, "keys of its own on each", |node| {
            (0..KEYS).map(|n| key(node, n)).collect()
        });
        measure(nodes, "the same keys on all", |_| {
            (0..KEYS).map(|n| key(0, n)).collect()
        });
    }
}
