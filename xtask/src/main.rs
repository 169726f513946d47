//! What a developer runs on this workspace: `cargo xtask test`.

mod apt;
mod containerd;
mod debian;
mod deny;
mod process;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Work on Peili's workspace")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the whole workspace: format, lints, dependencies, tests, end-to-end tests
    Test(test::Args),
}

fn main() -> ExitCode {
    let Command::Test(args) = Args::parse().command;
    match workspace::Workspace::open().and_then(|workspace| test::run(&workspace, &args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ncargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
