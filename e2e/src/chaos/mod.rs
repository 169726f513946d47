//! Chaos: a stream of pulls on five nodes with real containerds, during faults.
//!
//! The events follow from a seed ([`Plan`]). A plan is run on two clusters, without mirrors and with them, and the
//! pulls are compared one by one ([`PairedResult`]). docs/chaos.md describes the faults.

mod bad_server;
mod breaking;
mod cluster;
mod fault;
mod forger;
mod hostile;
mod mount;
mod paired_result;
mod plan;
mod random;
mod run;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};

pub use cluster::NODES;
pub use paired_result::PairedResult;
pub use plan::{Options, Plan};
pub use random::Random;

use run::Observed;

/// The clusters that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// One with mirrors and one without.
    Mirrors,
    /// Two without mirrors: what differs between them is chance.
    Control,
}

/// Runs the plan of these options in two clusters at the same time, passes on the comparison, and returns the failures.
/// Logs are written below `logs`.
pub fn compare(
    options: Options,
    compared: Compared,
    logs: &Path,
    tell: impl FnOnce(&PairedResult<'_>),
) -> Result<Vec<String>> {
    let plan = Arc::new(Plan::new(options));
    let folder = |name: &str| -> Result<_> {
        let folder = logs.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    };
    // At the same time, so that other load on the machine affects both.
    let without = {
        let (plan, logs) = (plan.clone(), folder("without")?);
        std::thread::spawn(move || run_alone(&plan, logs, false))
    };
    let with = {
        let (plan, logs) = (plan.clone(), folder("with")?);
        std::thread::spawn(move || run_alone(&plan, logs, compared == Compared::Mirrors))
    };
    let observed = |thread: JoinHandle<Result<Observed>>| {
        thread.join().map_err(|_| anyhow!("a run panicked"))?
    };
    let (without, with) = (observed(without), observed(with));
    let (without, with) = (without?, with?);
    let paired_result = PairedResult::new(&plan, &with, &without);
    tell(&paired_result);
    Ok(paired_result.failures())
}

/// A run on its own thread.
fn run_alone(plan: &Arc<Plan>, logs: PathBuf, has_mirrors: bool) -> Result<Observed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run::run(plan, logs, has_mirrors))
}
