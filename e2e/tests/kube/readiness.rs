//! Nodes that join with a taint, which the mirror removes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::kube::Node;
use e2e::until;
use serde_json::json;

use crate::suite::{ScenarioResult, Suite};

const TAINT: &str = "peili.dev/mirror-not-ready";

const ON: &str = "peili.nodeReadiness.mode=taint";

/// The taint is removed once containerd asks the mirror, and not before the mirror is ready.
pub async fn taint_goes_when_the_mirror_is_ready(suite: &Suite) -> Result<ScenarioResult> {
    suite.install(&["--set", ON])?;
    let node = &suite.cluster.nodes[2];
    join_tainted(suite, node).await?;
    let start = Instant::now();
    until("the taint to go", async || {
        let is_ready = has_ready_mirror(suite, node)?;
        let is_tainted = is_tainted(suite, node)?;
        ensure!(
            is_tainted || is_ready,
            "the taint went before the mirror was ready"
        );
        Ok(!is_tainted)
    })
    .await?;
    let took = start.elapsed().as_secs_f32();
    leave_untainted(node)?;
    Ok(ScenarioResult::Passed(format!(
        "{took:.1} s after the node had joined"
    )))
}

/// If containerd does not ask the mirror, the taint stays until the timeout.
pub async fn taint_goes_after_the_timeout(suite: &Suite) -> Result<ScenarioResult> {
    let timeout = Duration::from_secs(20);
    suite.install(&["--set", ON, "--set", "peili.nodeReadiness.timeout=20s"])?;
    let node = &suite.cluster.nodes[2];
    node.read_hosts_in("/etc/containerd/elsewhere")?;
    node.machine.restart("containerd").await?;
    join_tainted(suite, node).await?;
    let start = Instant::now();
    until("the mirror to be ready", async || {
        has_ready_mirror(suite, node)
    })
    .await?;
    until("the taint to go", async || Ok(!is_tainted(suite, node)?)).await?;
    let took = start.elapsed();
    let events = format!(
        "events -A --field-selector type=Warning,involvedObject.name={}",
        node.name
    );
    let events = suite.cluster.control.get(&events)?.to_string();

    node.read_hosts_in(e2e::kube::CERTS)?;
    node.machine.restart("containerd").await?;
    leave_untainted(node)?;
    suite.install(&[])?;
    ensure!(
        took >= timeout,
        "the taint went after {took:?}, before {timeout:?}"
    );
    ensure!(
        events.contains("MirrorNotReady"),
        "no event tells of it: {events}"
    );
    Ok(ScenarioResult::Passed(format!(
        "{:.1} s after the node had joined, with an event; the time-out is {timeout:?}",
        took.as_secs_f32()
    )))
}

/// Makes a node join the cluster again, with the taint.
async fn join_tainted(suite: &Suite, node: &Node) -> Result<()> {
    let name = &node.name;
    let taint = json!({ "key": TAINT, "effect": "NoSchedule" });
    node.register_with_taints(&[taint])?;
    let control = &suite.cluster.control;
    control.kubectl(&format!("delete node {name} --wait"))?;
    // Its pods are deleted with it, as if the machine had never been in the cluster.
    let pods = format!("--all-namespaces --field-selector spec.nodeName={name}");
    control.kubectl(&format!("delete pods {pods} --force --grace-period 0"))?;
    node.machine.restart("kubelet").await?;
    until(&format!("{name} to join"), async || {
        let nodes = suite.cluster.control.kubectl("get nodes -o name")?;
        Ok(nodes.lines().any(|line| line == format!("node/{name}")))
    })
    .await?;
    ensure!(
        is_tainted(suite, node)?,
        "{name} has joined without the taint"
    );
    Ok(())
}

/// Takes effect at the next start of the kubelet.
fn leave_untainted(node: &Node) -> Result<()> {
    node.register_with_taints(&[])
}

fn is_tainted(suite: &Suite, node: &Node) -> Result<bool> {
    let node = suite.cluster.control.get(&format!("node {}", node.name))?;
    let taints = node["spec"]["taints"].as_array();
    Ok(taints.is_some_and(|taints| taints.iter().any(|taint| taint["key"] == TAINT)))
}

fn has_ready_mirror(suite: &Suite, node: &Node) -> Result<bool> {
    let is_ready = |pod: &serde_json::Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.is_some_and(|conditions| {
            conditions
                .iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
    };
    Ok(suite.mirrors(node)?.iter().any(is_ready))
}
