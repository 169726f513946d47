//! `cargo xtask simulate`: the real state machine of `crates/flights` on a model of links.
//!
//! - [`scenario`]: the events in a cluster; [`setup`]: the same in figures.
//! - [`world`], [`event`]: virtual time; [`pull`]: the actions of a node's containerd and mirror; [`state_machine`]:
//!   the rules.
//! - [`links`], [`flows`], [`speed`], [`network`]: bytes and datagrams between nodes.
//! - [`measure`], [`table`], [`plot`], [`docs`]: the results.

mod docs;
mod downloads;
mod event;
mod flows;
mod links;
mod measure;
mod network;
mod plot;
mod pull;
mod random;
mod scenario;
mod setup;
mod speed;
mod state_machine;
mod table;
#[cfg(test)]
mod tests;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use measure::RunResult;
use scenario::{Common, Scenario};
use setup::{Containerd, Mode};

/// The default bandwidths of nodes, in Mbit/s.
const LINKS: [f64; 2] = [200.0, 1_000.0];

/// How 10 to 10,000 nodes pull an image, in virtual time
#[derive(Parser)]
#[command(bin_name = "cargo xtask simulate")]
struct Args {
    /// These scenarios alone
    #[arg(long, value_name = "SCENARIO", num_args = 1.., value_enum)]
    scenario: Vec<Scenario>,
    /// So many nodes, instead of the numbers that belong to each scenario
    #[arg(long, value_name = "N", num_args = 1.., value_parser = clap::value_parser!(u32).range(2..=10_000))]
    nodes: Vec<u32>,
    /// These rules alone
    #[arg(long, value_name = "RULE", num_args = 1.., value_enum)]
    rule: Vec<Mode>,
    /// What chance depends on: the same seed gives the same table
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Mbit/s of a node's link, up and down [default: 200 and 1000]
    #[arg(long, value_name = "MBIT", num_args = 1.., value_parser = megabits)]
    link: Vec<f64>,
    /// Upstream's bandwidth, in links of nodes
    #[arg(long, value_name = "LINKS", default_value_t = 10.0, value_parser = links_of_upstream)]
    upstream: f64,
    /// The layers of `many-layers`
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    layers: u32,
    /// Milliseconds within which nodes begin that are told to at once
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    spread: u64,
    /// containerd up to 2.0: three downloads at once for each image, instead of for the node
    #[arg(long)]
    old_containerd: bool,
    /// All nodes have pulled another image from the registry before
    #[arg(long)]
    known: bool,
    /// The registry asks for credentials, so mirrors do not pull the layers that their nodes lead
    #[arg(long)]
    private: bool,
    /// Few nodes, one speed: done in seconds
    #[arg(long)]
    quick: bool,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Write docs/simulation.md and docs/simulation.svg too
    #[arg(long, conflicts_with_all = ["quick", "upstream", "layers", "known", "private"])]
    write_docs: bool,
}

impl Args {
    /// The settings that all scenarios share, with links of this many Mbit/s.
    fn common(&self, mode: Mode, link: f64) -> Common {
        Common {
            seed: self.seed,
            mode,
            containerd: if self.old_containerd {
                Containerd::PerImage
            } else {
                Containerd::PerNode
            },
            mirrors_pull: !self.private,
            link: link * 1e6,
            upstream: self.upstream,
            layers: self.layers,
            known: self.known,
            spread: self.spread * setup::MILLI,
        }
    }
}

fn megabits(text: &str) -> Result<f64, String> {
    within(text, (1.0, 100_000.0))
}

fn links_of_upstream(text: &str) -> Result<f64, String> {
    within(text, (0.01, 10_000.0))
}

fn within(text: &str, (least, most): (f64, f64)) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(format!("from {least} to {most}"))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcomes = simulate(&args);
    if args.json {
        print!("{}", table::json(&outcomes));
    } else {
        print!("{}", table::markdown(&outcomes));
    }
    if args.write_docs {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs");
        if let Err(error) = docs::write(&folder, &outcomes, &args.common(Mode::Peili, LINKS[0])) {
            eprintln!("cargo xtask simulate: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Runs all simulations, one after the other.
fn simulate(args: &Args) -> Vec<RunResult> {
    let scenarios = or(&args.scenario, Scenario::value_variants());
    let links = or(&args.link, if args.quick { &LINKS[..1] } else { &LINKS });
    let mut outcomes = Vec::new();
    for link in links {
        for scenario in scenarios {
            for nodes in or(&args.nodes, scenario.sizes(args.quick)) {
                for mode in or(&args.rule, Mode::value_variants()) {
                    let is_asked_for = !args.rule.is_empty();
                    if *mode != Mode::Peili && !scenario.compares() && !is_asked_for {
                        continue;
                    }
                    let common = args.common(*mode, *link);
                    outcomes.push(measure::run_and_tell(*scenario, &common, *nodes));
                }
            }
        }
    }
    outcomes
}

fn or<'a, T>(asked: &'a [T], usual: &'a [T]) -> &'a [T] {
    if asked.is_empty() { usual } else { asked }
}
