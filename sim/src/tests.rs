use super::*;
use crate::measure::run;
use crate::world::World;

fn common(seed: u64, mode: Mode) -> Common {
    Common {
        seed,
        mode,
        containerd: Containerd::PerNode,
        mirrors_pull: true,
        link: 200e6,
        upstream: 10.0,
        known: false,
        layers: 40,
        spread: 200 * setup::MILLI,
    }
}

#[test]
fn everybody_gets_every_byte_and_upstream_gives_it_once() {
    for containerd in [Containerd::PerNode, Containerd::PerImage] {
        let common = Common {
            containerd,
            ..common(1, Mode::Peili)
        };
        let setup = Scenario::AllAtOnce.setup(&common, 10);
        let (bound, bytes) = (setup.bound(), setup.bytes());
        let mut world = World::new(setup);
        world.run();
        assert_eq!(world.unfinished, 0);
        assert_eq!(world.counts.upstream_bytes, bytes);
        let all = world.counts.upstream_bytes + world.counts.peer_bytes;
        assert_eq!(all, 10 * bytes, "every byte came once to every node");
        let times = world.members.iter().map(|member| {
            let finished = member.finished.expect("everybody is done");
            (finished - world.origin) as f64 / setup::SECOND as f64
        });
        assert!(times.into_iter().all(|time| time >= bound));
    }
}

#[test]
fn every_live_node_that_counts_ends_in_every_scenario() {
    for scenario in Scenario::value_variants() {
        let outcome = run(*scenario, &common(2, Mode::Peili), 24);
        assert_eq!(outcome.unfinished, 0, "{scenario:?}");
        assert!(!outcome.times.is_empty(), "{scenario:?}");
    }
}

#[test]
fn without_peers_upstream_gives_it_to_each() {
    let outcome = run(Scenario::AllAtOnce, &common(3, Mode::Alone), 20);
    assert!((outcome.upstream - 20.0).abs() < 1e-9);
    // Twenty nodes, with an upstream of ten links: twice the bound plus the time to the first byte.
    let ratio = outcome.quantile(1.0) / outcome.bound;
    assert!((2.0..2.1).contains(&ratio), "{ratio}");
}

#[test]
fn spegels_rule_takes_from_upstream_until_somebody_has_it() {
    let at_once = run(Scenario::AllAtOnce, &common(4, Mode::Spegel), 20);
    let ramp = run(Scenario::Ramp, &common(4, Mode::Spegel), 20);
    assert!(at_once.upstream > 19.0);
    assert!(ramp.upstream < at_once.upstream);
}

#[test]
fn the_same_seed_gives_the_same_table() {
    let table = |seed| {
        let common = common(seed, Mode::Peili);
        let scenarios = [Scenario::Deaths, Scenario::MassJoin, Scenario::Denied];
        let outcomes = scenarios.map(|scenario| run(scenario, &common, 24));
        table::json(&outcomes)
    };
    assert_eq!(table(5), table(5));
    assert_ne!(table(5), table(6));
}
