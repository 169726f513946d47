//! `docs/simulation.md` and `docs/simulation.svg`.

use std::path::Path;

use anyhow::{Context, Result};

use crate::measure::Outcome;
use crate::plot;
use crate::scenario::Scenario;
use crate::table;

const MODEL: &str = include_str!("model.md");
/// The plot is of this many nodes, or of the most that were simulated below that.
const PLOTTED: u32 = 1_000;

/// Writes both into `folder`.
///
/// # Errors
/// A file cannot be written, or nothing was simulated that the plot shows.
pub fn write(folder: &Path, outcomes: &[Outcome], seed: u64) -> Result<()> {
    let at_once = |o: &&Outcome| o.scenario == Scenario::AllAtOnce && o.nodes <= PLOTTED;
    let plotted = outcomes.iter().filter(at_once);
    let most = plotted.clone().max_by_key(|o| o.nodes);
    let most = most.context("the plot shows all-at-once: simulate that too")?;
    let is_plotted = |o: &&Outcome| o.nodes == most.nodes && o.link == most.link;
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
    save(&folder.join("simulation.md"), &text)
}

fn save(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}
