//! `cargo xtask test`: every check of the workspace, one after the other, until one fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;

use crate::workspace::Workspace;
use crate::{chart, containerd, debian, deny, process};

/// The number of concurrent labs in the end-to-end tests. Each is a handful of processes that mostly wait; more of them
/// would compete for two cores.
const E2E_THREADS: &str = "--test-threads=2";

/// Which steps to run.
#[derive(clap::Args)]
pub struct Args {
    /// Run these steps alone
    #[arg(long, value_name = "STEP", num_args = 1.., conflicts_with = "skip")]
    only: Vec<Step>,
    /// Leave these steps out; the summary says so
    #[arg(long, value_name = "STEP", num_args = 1..)]
    skip: Vec<Step>,
    /// Run the end-to-end tests with this containerd too: a folder with the programs containerd and
    /// ctr. May be given several times
    #[arg(long, value_name = "DIR")]
    containerd: Vec<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Format: cargo fmt --check
    Fmt,
    /// Lints: cargo clippy, warnings denied
    Clippy,
    /// Dependencies: licences, bans, sources, advisories
    Deny,
    /// All tests that need neither root nor packages
    Test,
    /// Tests of the chart; needs Go, Python and Debian's promtool
    Chart,
    /// End-to-end tests with real containerds; needs root and Debian packages
    E2e,
}

/// The result of a step.
enum StepResult {
    Ok {
        took: Duration,
        remark: Option<String>,
    },
    LeftOut,
}

/// Runs the steps in order, stops at the first that fails, and ends with a line for each.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let start = Instant::now();
    let mut verdicts = Vec::new();
    for &step in Step::value_variants() {
        let name = step.name();
        if args.skip.contains(&step) || !(args.only.is_empty() || args.only.contains(&step)) {
            verdicts.push((name, StepResult::LeftOut));
            continue;
        }
        println!("\n=== {name}");
        let began = Instant::now();
        let remark = step.run(workspace, args).with_context(|| {
            let took = began.elapsed().as_secs_f32();
            format!("{name} FAILED after {took:.1} s; again: cargo xtask test --only {name}")
        })?;
        let took = began.elapsed();
        println!("=== {name}: ok, {:.1} s", took.as_secs_f32());
        verdicts.push((name, StepResult::Ok { took, remark }));
    }
    summarise(&verdicts, start.elapsed());
    Ok(())
}

fn summarise(verdicts: &[(&str, StepResult)], took: Duration) {
    println!("\n=== summary");
    let mut left_out = Vec::new();
    for (name, verdict) in verdicts {
        match verdict {
            StepResult::Ok { took, remark } => {
                let remark = remark.as_ref().map(|remark| format!("  ({remark})"));
                let took = took.as_secs_f32();
                println!("{name:<8}ok {took:>8.1} s{}", remark.unwrap_or_default());
            }
            StepResult::LeftOut => left_out.push(*name),
        }
    }
    let took = took.as_secs_f32();
    if left_out.is_empty() {
        println!("all passed in {took:.1} s");
    } else {
        println!("passed in {took:.1} s; NOT RUN: {}", left_out.join(", "));
    }
}

impl Step {
    /// The name for `--only` and `--skip`.
    fn name(self) -> &'static str {
        match self {
            Step::Fmt => "fmt",
            Step::Clippy => "clippy",
            Step::Deny => "deny",
            Step::Test => "test",
            Step::Chart => "chart",
            Step::E2e => "e2e",
        }
    }

    /// Runs the step. Returns what it could not check, as a remark for the summary.
    fn run(self, workspace: &Workspace, args: &Args) -> Result<Option<String>> {
        match self {
            Step::Fmt => process::run(&mut workspace.cargo(["fmt", "--all", "--check"]))?,
            Step::Clippy => clippy(workspace)?,
            Step::Deny => return deny::run(workspace),
            // The whole workspace, as in the step below: with another choice of packages cargo unifies features
            // differently and rebuilds many dependencies.
            Step::Test => process::run(&mut workspace.cargo(["test", "--locked", "--workspace"]))?,
            Step::Chart => chart::run(workspace)?,
            Step::E2e => end_to_end(workspace, &args.containerd)?,
        }
        Ok(None)
    }
}

fn clippy(workspace: &Workspace) -> Result<()> {
    // The end-to-end tests are no target unless they are named, not even of `--all-targets`.
    for targets in [
        "--all-targets",
        "--test=nodes",
        "--test=chaos",
        "--test=chart",
    ] {
        let lint = [
            "clippy",
            "--locked",
            "--workspace",
            targets,
            "--",
            "-Dwarnings",
        ];
        process::run(&mut workspace.cargo(lint))?;
    }
    Ok(())
}

/// Runs the end-to-end tests with the containerds of Debian, and again with each given one.
fn end_to_end(workspace: &Workspace, given: &[PathBuf]) -> Result<()> {
    debian::require_root()?;
    debian::install_packages()?;
    for generation in containerd::GENERATIONS {
        containerd::install(generation, &workspace.e2e())?;
    }
    let given = given.iter().map(|folder| containerd::given(folder));
    let given = given.collect::<Result<Vec<_>>>()?;
    let peili = build_peili(workspace)?;
    let mut tests = nodes(workspace, &peili, &[]);
    process::run(&mut tests)?;
    for folder in given {
        println!("\nwith the containerd in {}", folder.display());
        let mut tests = nodes(workspace, &peili, &["--ignored", "containerd_given::"]);
        process::run(tests.env("PEILI_E2E_CONTAINERD", folder))?;
    }
    Ok(())
}

/// The end-to-end tests on nodes, with further arguments of the test program.
fn nodes(workspace: &Workspace, peili: &Path, more: &[&str]) -> Command {
    let tests = ["test", "--locked", "--workspace", "--test=nodes", "--"];
    let mut command = workspace.cargo(tests);
    command.arg(E2E_THREADS).args(more);
    command.env("PEILI_E2E_BINARY", peili);
    command
}

/// Builds the binary under test as the step `test` does, and returns its path.
fn build_peili(workspace: &Workspace) -> Result<PathBuf> {
    let messages = "--message-format=json-render-diagnostics";
    let mut build = workspace.cargo(["test", "--locked", "--workspace", "--no-run", messages]);
    let messages = process::output(build.stderr(Stdio::inherit()))?;
    messages
        .lines()
        .find_map(peili_of_message)
        .map(PathBuf::from)
        .ok_or_else(|| {
            anyhow!(
                "cargo built no binary peili: it does so for the integration tests of crates/peili"
            )
        })
}

/// The path of the binary, if this message of cargo contains it.
fn peili_of_message(line: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_binary = message["target"]["name"] == "peili"
        && message["target"]["kind"][0] == "bin"
        && message["profile"]["test"] == false;
    is_binary
        .then(|| message["executable"].as_str().map(str::to_owned))
        .flatten()
}
