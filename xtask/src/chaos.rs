//! `cargo xtask chaos`: pulls on five nodes with real containerds during faults, compared with the same pulls without
//! mirrors. `cargo xtask crowd`: pulls while thousands of clients keep a mirror busy.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{containerd, debian, process};

/// What is to break, and how long.
#[derive(clap::Args)]
pub struct Args {
    /// Everything follows from it: images, who pulls them when, faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Faults
    #[arg(long, default_value_t = 200)]
    faults: usize,
    /// Minutes in which they happen
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Compare two clusters without mirrors, to see what chance alone makes of the same plan
    #[arg(long)]
    control: bool,
    /// Run with this Peili [default: a release build of the workspace]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Runs the plan of the seed, and prints the table. Fails if wrong bytes were committed, if a pull failed that would
/// not have failed without mirrors, or if a mirror ended or does not release its resources.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let more = [
        args.seed.to_string(),
        args.faults.to_string(),
        args.minutes.to_string(),
        if args.control { "control" } else { "mirrors" }.to_owned(),
    ];
    run_with(workspace, args.binary.as_deref(), "chaos", &more)
}

/// How many clients, and how long.
#[derive(clap::Args)]
pub struct CrowdArgs {
    /// Slow clients on another host
    #[arg(long, default_value_t = 5000)]
    clients: usize,
    /// Seconds in which containerd pulls
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Run with this Peili [default: a release build of the workspace]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Runs it without a mirror and with one. Fails if containerd pulls at less than half the speed, or the mirror needs
/// more than 64 MiB.
pub fn run_crowd(workspace: &Workspace, args: &CrowdArgs) -> Result<()> {
    let more = [args.clients.to_string(), args.seconds.to_string()];
    run_with(workspace, args.binary.as_deref(), "crowd", &more)
}

fn run_with(
    workspace: &Workspace,
    binary: Option<&Path>,
    what: &str,
    more: &[String],
) -> Result<()> {
    debian::require_root()?;
    debian::install_packages()?;
    for generation in containerd::GENERATIONS {
        containerd::install(generation, &workspace.e2e())?;
    }
    let binary = match binary {
        Some(file) => file.canonicalize()?,
        None => workspace.release_binary()?,
    };
    let tests = ["test", "--locked", "--package=e2e", "--test=chaos", "--"];
    let mut command = workspace.cargo(tests);
    command.arg(what).args(more).env("PEILI_E2E_BINARY", binary);
    process::run(&mut command)
}
