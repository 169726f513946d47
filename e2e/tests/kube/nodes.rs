//! Nodes that leave the cluster and return.

use std::time::Instant;

use anyhow::{Result, ensure};
use e2e::kube::Pulls;

use crate::suite::{CHATTER, ScenarioResult, Suite};

/// A node is drained, removed and added again, while another one pulls.
pub async fn node_is_removed_and_added_again(suite: &Suite) -> Result<ScenarioResult> {
    suite.install(&[])?;
    let cluster = &suite.cluster;
    let [holder, puller, leaving, ..] = &cluster.nodes[..] else {
        unreachable!("a cluster has three nodes");
    };
    let image = cluster.upstream.push("lab/drain", "v1", &[5_000_000; 4])?;
    holder.cri.pull(&image.by_tag()).await?;
    suite.finds(puller, &image).await?;

    let pulls = Pulls::start(vec![puller.cri.clone()], &image.by_tag());
    let name = &leaving.name;
    let drain = "drain --ignore-daemonsets --delete-emptydir-data --force --timeout 120s";
    cluster.control.kubectl(&format!("{drain} {name}"))?;
    cluster
        .control
        .kubectl(&format!("delete node {name} --wait"))?;
    let start = Instant::now();
    leaving.machine.restart("kubelet").await?;
    cluster.node_ready(name).await?;
    cluster.rolled_out("peili daemonset/peili")?;
    ensure!(suite.mirrors(leaving)?.len() == 1, "no mirror on {name}");
    let back = start.elapsed().as_secs_f32();
    let pulls = pulls.finish().await;
    ensure!(
        pulls.failures.is_empty(),
        "{pulls}: {}",
        pulls.failures.join("; ")
    );

    let sent = suite.sent_during(leaving.cri.pull(&image.by_tag())).await?;
    ensure!(sent < CHATTER, "{name} took {sent} bytes from upstream");
    Ok(ScenarioResult::Passed(format!(
        "mirror ready {back:.1} s after the kubelet's restart, and finds its peers; meanwhile {pulls}"
    )))
}
