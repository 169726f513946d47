//! Developer commands for this workspace: `cargo xtask test`, `cargo xtask simulate`.

mod apt;
mod chaos;
mod chart;
mod containerd;
mod debian;
mod deny;
mod dist;
mod docs;
mod fuzz;
mod kube;
mod process;
mod simulate;
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
    /// Run the rules of flights on a model of links, with up to 10,000 nodes
    Simulate(simulate::Args),
    /// Make what a release consists of: image, packages, chart archive, SBOM, checksums
    Dist(dist::Args),
    /// Run the chart's end-to-end tests on a real Kubernetes in namespaces
    Kube(kube::Args),
    /// Build the site of the documentation; needs mdbook
    Docs(docs::Args),
    /// Break things under a stream of pulls, with mirrors and without, and compare
    Chaos(chaos::Args),
    /// Let thousands of slow and noisy clients at a mirror, and see how fast its containerd pulls
    Crowd(chaos::CrowdArgs),
    /// Run the fuzz targets, each for a while; needs a nightly compiler and cargo-fuzz
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let result = workspace::Workspace::open().and_then(|workspace| match Args::parse().command {
        Command::Test(args) => test::run(&workspace, &args),
        Command::Simulate(args) => simulate::run(&workspace, &args),
        Command::Dist(args) => dist::run(&workspace, &args),
        Command::Kube(args) => kube::run(&workspace, &args),
        Command::Docs(args) => docs::run(&workspace, &args),
        Command::Chaos(args) => chaos::run(&workspace, &args),
        Command::Crowd(args) => chaos::run_crowd(&workspace, &args),
        Command::Fuzz(args) => fuzz::run(&workspace, &args),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ncargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
