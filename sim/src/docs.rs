//! Writes `docs/simulation.md` and `docs/simulation.svg`.

use std::ops::RangeInclusive;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};

use crate::measure::{self, RunResult};
use crate::plot;
use crate::scenario::{Common, Scenario};
use crate::table;

const MODEL: &str = include_str!("model.md");
/// The number of nodes in the plot, or the most that were simulated below that.
const PLOTTED: u32 = 1_000;
/// The seeds that show the effect of chance, with all nodes starting at once.
const SEEDS: RangeInclusive<u64> = 1..=5;
const SIZES: [u32; 3] = [1_000, 4_000, 10_000];

/// Writes both files into `folder`. `common` is described in the text.
///
/// # Errors
/// A file cannot be written, or nothing was simulated that the plot shows.
pub fn write(folder: &Path, outcomes: &[RunResult], common: &Common) -> Result<()> {
    let seed = common.seed;
    let at_once = |o: &&RunResult| o.scenario == Scenario::AllAtOnce && o.nodes <= PLOTTED;
    let plotted = outcomes.iter().filter(at_once);
    let most = plotted.clone().max_by_key(|o| o.nodes);
    let most = most.context("the plot shows all-at-once: simulate that too")?;
    let is_plotted = |o: &&RunResult| o.nodes == most.nodes && o.link == most.link;
    let plotted: Vec<_> = plotted.filter(is_plotted).collect();
    save(&folder.join("simulation.svg"), &plot::svg(&plotted))?;
    let mut links: Vec<_> = outcomes.iter().map(|o| o.link).collect();
    links.dedup();
    let mut text = format!(
        "# Simulation\nWritten by `cargo xtask simulate --write-docs` with seed {seed}; not edited by hand.\n\n{MODEL}"
    );
    text += "\n![Nodes that have the image, by time](simulation.svg)\n";
    for link in links {
        let of_link: Vec<_> = outcomes
            .iter()
            .filter(|o| o.link == link)
            .cloned()
            .collect();
        let megabits = link / 1e6;
        text += &format!("\n## Links of {megabits} Mbit/s, upstream ten times that\n");
        text += &table::markdown(&of_link);
    }
    text += &by_chance(common);
    save(&folder.join("simulation.md"), &text)
}

/// The same scenario with several seeds.
fn by_chance(common: &Common) -> String {
    let run = |nodes: u32| {
        let with =
            |seed| measure::run_and_tell(Scenario::AllAtOnce, &Common { seed, ..*common }, nodes);
        SEEDS.map(with).collect::<Vec<_>>()
    };
    let outcomes = thread::scope(|scope| {
        let running = SIZES.map(|nodes| scope.spawn(move || run(nodes)));
        running.map(|thread| thread.join().expect("a simulation does not panic"))
    });
    let megabits = common.link / 1e6;
    let mut text = format!(
        "\n## By chance\nAll at once at {megabits} Mbit/s: p99 / bound, and images from upstream, by seed.\n\n"
    );
    let titles = SEEDS.map(|seed| format!(" {seed} |"));
    text += &format!("| nodes |{}\n", titles.collect::<String>());
    text += &format!(
        "| ----: |{}\n",
        SEEDS.map(|_| " ---: |").collect::<String>()
    );
    for (nodes, outcomes) in SIZES.iter().zip(&outcomes) {
        let cells = outcomes.iter().map(|outcome| {
            let p99 = table::figure(outcome.quantile(0.99) / outcome.bound, 2);
            format!(" {p99}, {} |", table::figure(outcome.upstream, 3))
        });
        text += &format!("| {nodes} |{}\n", cells.collect::<String>());
    }
    text
}

fn save(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}
