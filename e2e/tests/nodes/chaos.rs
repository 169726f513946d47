//! A short version of `cargo xtask chaos`.

use std::time::Duration;

use e2e::chaos::{Compared, NODES, Options, compare};

/// A few faults of one seed: no wrong bytes are committed, and no pull fails that would not have failed without
/// mirrors. The durations of pulls are left to the long run: they depend on the machine.
#[test]
fn few_faults_cost_no_pull() {
    let options = Options {
        seed: 4,
        faults: 10,
        time: Duration::from_secs(14),
        nodes: NODES,
    };
    let logs = e2e::logs("chaos/slice").expect("a folder for logs");
    let failures = compare(options, Compared::Mirrors, &logs, |verdict| {
        println!("{verdict}");
    });
    let failures = failures.expect("a run");
    assert!(
        failures.is_empty(),
        "{}\nlogs: {}",
        failures.join("\n"),
        logs.display()
    );
}
