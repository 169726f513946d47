//! Installing and uninstalling the chart.

use std::time::Instant;

use anyhow::{Result, ensure};
use e2e::until;

use crate::suite::{PEILI, ScenarioResult, Suite};

/// Files with the default values of Spegel's chart.
const SPEGELS: [&str; 2] = ["spegel-main-values.yaml", "spegel-v0.7.4-values.yaml"];

/// Kinds of objects that a chart may leave behind.
const KINDS: &str = "all,configmaps,secrets,serviceaccounts,networkpolicies,roles,rolebindings";

/// Nodes whose containerd has pulled next to nothing yet get a mirror.
pub async fn install_on_fresh_nodes(suite: &Suite) -> Result<ScenarioResult> {
    let start = Instant::now();
    suite.install(&[])?;
    let took = start.elapsed().as_secs_f32();
    Ok(ScenarioResult::Passed(format!(
        "all mirrors ready after {took:.1} s"
    )))
}

/// The chart's own test finds that containerd asks the mirror.
pub async fn helm_test(suite: &Suite) -> Result<ScenarioResult> {
    suite.install(&[])?;
    let start = Instant::now();
    let test = ["test", PEILI, "--namespace", PEILI, "--timeout", "180s"];
    suite.cluster.control.helm(test)?;
    let took = start.elapsed().as_secs_f32();
    Ok(ScenarioResult::Passed(format!("succeeded in {took:.1} s")))
}

/// After the removal, only objects from before the first installation are left.
pub async fn uninstall_leaves_nothing(suite: &Suite) -> Result<ScenarioResult> {
    suite.install(&[])?;
    let start = Instant::now();
    suite.uninstall(PEILI, &[])?;
    let took = start.elapsed().as_secs_f32();
    suite.ensure_hosts_as_before()?;
    let control = &suite.cluster.control;
    until("all pods to be gone", async || {
        Ok(control
            .kubectl(&format!("get pods -n {PEILI} -o name"))?
            .is_empty())
    })
    .await?;
    for scope in [
        format!("{KINDS} -n {PEILI}"),
        "clusterroles,clusterrolebindings".to_owned(),
    ] {
        let selector = "--selector app.kubernetes.io/instance=peili";
        let left = control.kubectl(&format!("get {scope} {selector} -o name"))?;
        ensure!(left.is_empty(), "left in the cluster: {left}");
    }
    for node in &suite.cluster.nodes {
        let running = node.machine.processes("peili", &[]);
        ensure!(
            running.is_empty(),
            "{}: processes {running:?} are left",
            node.name
        );
    }
    Ok(ScenarioResult::Passed(format!(
        "{took:.1} s; hosts.toml files as before on all nodes"
    )))
}

/// Spegel's own default values alone give working mirrors.
pub async fn spegels_values_install(suite: &Suite) -> Result<ScenarioResult> {
    let mut figures = Vec::new();
    for (number, values) in SPEGELS.into_iter().enumerate() {
        suite.uninstall(PEILI, &["--ignore-not-found"])?;
        let file = suite
            .options
            .workspace
            .join("charts/tests/fixtures")
            .join(values);
        let start = Instant::now();
        suite.install(&["--values", &file.to_string_lossy()])?;
        let took = start.elapsed().as_secs_f32();
        let tag = format!("v{number}");
        let image = suite
            .cluster
            .upstream
            .push("lab/values", &tag, &[1_000_000; 4])?;
        let [first, others @ ..] = &suite.cluster.nodes[..] else {
            unreachable!("a cluster has nodes");
        };
        first.cri.pull(&image.by_tag()).await?;
        for node in others {
            suite.finds(node, &image).await?;
        }
        figures.push(format!("{values}: ready after {took:.1} s, mirrors"));
    }
    suite.uninstall(PEILI, &[])?;
    suite.ensure_hosts_as_before()?;
    Ok(ScenarioResult::Passed(figures.join("; ")))
}
