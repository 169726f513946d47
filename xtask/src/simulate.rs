//! `cargo xtask simulate`: the simulator is a separate program, so that no other command waits for its build.

use std::ffi::OsString;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// What the simulator takes; `--help` tells
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds and runs the simulator. Only its output is written to standard output.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let mut cargo = workspace.cargo(["run", "--quiet", "--package", "sim", "--"]);
    let status = cargo.args(&args.arguments).status();
    let status = status.context("cargo could not be started")?;
    if !status.success() {
        bail!("the simulator ended with {status}");
    }
    Ok(())
}
