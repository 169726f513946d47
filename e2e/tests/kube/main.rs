//! The chart on a real Kubernetes, end to end. `cargo xtask kube` runs it.
//!
//! All scenarios run on one cluster, in this order, and each can be run alone: it installs what it needs. Each ends
//! with one line of measurements.

mod memory;
mod nodes;
mod private;
mod readiness;
mod restarts;
mod suite;
mod updates;
mod values;
mod workload;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use e2e::kube::Options;

use suite::{ScenarioResult, Suite};

/// Runs the scenarios in the arguments, or all.
fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let is_kept = arguments.iter().any(|argument| argument == "--keep");
    let named: Vec<_> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    for name in &named {
        if !NAMES.contains(&name.as_str()) {
            bail!(
                "there is no scenario {name}; there are: {}",
                NAMES.join(", ")
            );
        }
    }
    let options = Options::from_environment()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let suite = Suite::start(options).await?;
        let mut failed = Vec::new();
        for &name in NAMES {
            if !named.is_empty() && !named.iter().any(|other| *other == name) {
                continue;
            }
            println!("\n=== {name}");
            let start = Instant::now();
            let outcome = run(name, &suite).await.context(name);
            let took = start.elapsed().as_secs_f32();
            match outcome {
                Ok(ScenarioResult::Passed(figures)) => {
                    println!("{name}: ok, {took:.1} s: {figures}");
                }
                Ok(ScenarioResult::NotRun(why)) => println!("{name}: NOT RUN: {why}"),
                Err(error) => {
                    println!("{name}: FAILED, {took:.1} s: {error:#}\n{}", suite.state());
                    failed.push(name);
                }
            }
        }
        if is_kept {
            suite.keep()?;
        }
        if !failed.is_empty() {
            bail!("failed: {}; logs: target/e2e/logs/kube", failed.join(", "));
        }
        Ok(())
    })
}

macro_rules! scenarios {
    ($($module:ident::$scenario:ident),* $(,)?) => {
        const NAMES: &[&str] = &[$(stringify!($scenario)),*];

        async fn run(name: &str, suite: &Suite) -> Result<ScenarioResult> {
            match name {
                $(stringify!($scenario) => $module::$scenario(suite).await,)*
                _ => bail!("no such scenario"),
            }
        }
    };
}

scenarios! {
    values::install_on_fresh_nodes,
    workload::three_pods_at_once,
    private::private_image_needs_its_secret,
    updates::rolling_update,
    nodes::node_is_removed_and_added_again,
    readiness::taint_goes_when_the_mirror_is_ready,
    readiness::taint_goes_after_the_timeout,
    values::helm_test,
    restarts::containerd_is_restarted,
    restarts::removed_pod_is_not_pinned,
    memory::limit_holds_under_32_streams,
    values::uninstall_leaves_nothing,
    workload::three_pods_at_once_in_spegels_chart,
    updates::upgrade_from_spegel_in_place,
    updates::move_from_spegel_side_by_side,
    values::spegels_values_install,
}
