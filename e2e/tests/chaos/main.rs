//! Pulls during faults, and with many clients; with mirrors and without. `cargo xtask chaos` and `cargo xtask crowd`
//! run it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::chaos::{Compared, NODES, Options, compare};
use e2e::crowd::under_crowd;

/// The most memory of a mirror with many clients, in bytes.
const MAX_MEMORY: u64 = 64 << 20;

/// Runs the test in the arguments.
fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["chaos", seed, faults, minutes, compared] => {
            let compared = match *compared {
                "mirrors" => Compared::Mirrors,
                "control" => Compared::Control,
                _ => bail!("mirrors or control"),
            };
            let minutes: f64 = minutes.parse().context("the minutes")?;
            let options = Options {
                seed: seed.parse().context("the seed")?,
                faults: faults.parse().context("the number of faults")?,
                time: Duration::from_secs_f64(minutes * 60.0),
                nodes: NODES,
            };
            chaos(options, compared)
        }
        ["crowd", clients, seconds] => crowd(
            clients.parse().context("the number of clients")?,
            Duration::from_secs(seconds.parse().context("the seconds")?),
        ),
        _ => bail!("no such run: use cargo xtask chaos or cargo xtask crowd"),
    }
}

fn chaos(options: Options, compared: Compared) -> Result<()> {
    let logs = e2e::logs("chaos")?;
    let failures = compare(options, compared, &logs, |paired_result| {
        println!("\n{paired_result}\nmost added:");
        for line in paired_result.slowest(20) {
            println!("  {line}");
        }
    })?;
    if !failures.is_empty() {
        bail!("{}\nlogs: {}", failures.join("\n"), logs.display());
    }
    Ok(())
}

fn crowd(clients: usize, time: Duration) -> Result<()> {
    let logs = e2e::logs("crowd")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let (with, without) = runtime.block_on(async {
        let without = under_crowd(logs.clone(), false, clients, time).await?;
        let with = under_crowd(logs.clone(), true, clients, time).await?;
        anyhow::Ok((with, without))
    })?;
    for (name, managed) in [("without a mirror", without), ("with a mirror", with)] {
        println!(
            "{name}: {} pulls in {time:?}, the longest {:.2} s; {} slow clients served, {} MiB at most",
            managed.pulls,
            managed.longest.as_secs_f32(),
            managed.served,
            managed.memory >> 20
        );
    }
    if with.pulls * 2 < without.pulls {
        bail!("containerd pulls at less than half the speed");
    }
    if with.memory > MAX_MEMORY {
        bail!("the mirror used more than {} MiB", MAX_MEMORY >> 20);
    }
    Ok(())
}
