//! The result of a run.

use std::time::Instant;

use serde_json::{Value, json};

use crate::scenario::{Common, Scenario};
use crate::setup::{Mode, SECOND};
use crate::world::World;

#[derive(Clone, Debug)]
pub struct RunResult {
    pub scenario: Scenario,
    pub mode: Mode,
    pub nodes: u32,
    pub link: f64,
    /// The seconds from each node's own start to its end, sorted.
    pub times: Vec<f64>,
    /// The same from the start of the first node.
    pub ends: Vec<f64>,
    pub unfinished: usize,
    pub bound: f64,
    /// The bytes from upstream, as a multiple of the image.
    pub upstream: f64,
    pub leads: u64,
    pub alone: u64,
    pub refused: u64,
    pub broken: u64,
    pub datagrams: u64,
    /// The most datagrams that a node received.
    pub busiest: u64,
    /// The time of the computation. Not part of any reproducible output.
    pub took: f64,
}

/// Runs a scenario, and prints the time of the computation to standard error.
pub fn run_and_tell(scenario: Scenario, common: &Common, nodes: u32) -> RunResult {
    let outcome = run(scenario, common, nodes);
    let (title, megabits) = (scenario.title(), common.link / 1e6);
    let Common { mode, seed, .. } = common;
    eprintln!(
        "{title}, {nodes} nodes, {megabits} Mbit/s, {mode:?}, seed {seed}: {:.1} s computed",
        outcome.took
    );
    outcome
}

/// Runs a scenario.
pub fn run(scenario: Scenario, common: &Common, nodes: u32) -> RunResult {
    let began = Instant::now();
    let setup = scenario.setup(common, nodes);
    let (bound, bytes) = (setup.bound(), setup.bytes() as f64);
    let mut world = World::new(setup);
    world.run();
    let (mut times, mut ends, mut unfinished) = (Vec::new(), Vec::new(), 0);
    for plan in &world.setup.plans {
        let member = &world.members[plan.node as usize];
        let left_out = world.setup.left_out.contains(&plan.node);
        if left_out || !member.alive || world.stalled_leader == Some(plan.node) {
            continue;
        }
        match member.finished {
            Some(at) => {
                times.push((at - member.started) as f64 / SECOND as f64);
                ends.push((at - world.origin) as f64 / SECOND as f64);
            }
            None => unfinished += 1,
        }
    }
    times.sort_by(f64::total_cmp);
    ends.sort_by(f64::total_cmp);
    let busiest = world.members.iter().map(|member| member.received).max();
    RunResult {
        scenario,
        mode: common.mode,
        nodes,
        link: common.link,
        times,
        ends,
        unfinished,
        bound,
        upstream: world.counts.upstream_bytes as f64 / bytes,
        leads: world.counts.leads,
        alone: world.counts.alone,
        refused: world.counts.refused,
        broken: world.counts.broken,
        datagrams: world.counts.datagrams,
        busiest: busiest.unwrap_or_default(),
        took: began.elapsed().as_secs_f64(),
    }
}

impl RunResult {
    /// The time in which this fraction of the counted nodes finished, in seconds; infinite if it never did.
    pub fn quantile(&self, part: f64) -> f64 {
        let all = self.times.len() + self.unfinished;
        let index = (part * all as f64).ceil() as usize;
        let time = self.times.get(index.saturating_sub(1));
        time.copied().unwrap_or(f64::INFINITY)
    }

    pub fn to_json(&self) -> Value {
        json!({
            "scenario": self.scenario.title(),
            "rule": format!("{:?}", self.mode),
            "nodes": self.nodes,
            "link_mbit": self.link / 1e6,
            "p50_s": self.quantile(0.5),
            "p99_s": self.quantile(0.99),
            "max_s": self.quantile(1.0),
            "bound_s": self.bound,
            "upstream_images": self.upstream,
            "unfinished": self.unfinished,
            "leads": self.leads,
            "alone": self.alone,
            "refused": self.refused,
            "broken": self.broken,
            "datagrams": self.datagrams,
            "busiest_datagrams": self.busiest,
        })
    }
}
