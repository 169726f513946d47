//! A mirror's view of its containerd, when that is restarted and when pods are deleted.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::until;
use futures::future::try_join_all;

use crate::suite::{CHATTER, PEILI, ScenarioResult, Suite};

/// All containerds are restarted under running mirrors, which continue with the new ones.
pub async fn containerd_is_restarted(suite: &Suite) -> Result<ScenarioResult> {
    suite.install(&[])?;
    let cluster = &suite.cluster;
    let processes = || try_join_all(cluster.nodes.iter().map(|node| suite.process(node)));
    let before = processes().await?;
    for node in &cluster.nodes {
        node.machine.restart("containerd").await?;
        let answers = async || node.cri.images().await.map(|_| true);
        until("containerd to answer", answers).await?;
    }
    let image = cluster
        .upstream
        .push("lab/restart", "v1", &[5_000_000; 4])?;
    let [first, others @ ..] = &cluster.nodes[..] else {
        unreachable!("a cluster has nodes");
    };
    first.cri.pull(&image.by_tag()).await?;
    for node in others {
        suite.finds(node, &image).await?;
    }
    let now = processes().await?;
    ensure!(now == before, "mirrors were restarted: {before:?}, {now:?}");
    cluster.rolled_out("peili daemonset/peili")?;
    Ok(ScenarioResult::Passed(format!(
        "on {} nodes; an image pulled since is found, for at most {CHATTER} bytes from upstream",
        cluster.nodes.len()
    )))
}

/// The root file system of a pod that is removed does not stay mounted in the mirror's namespace.
pub async fn removed_pod_is_not_pinned(suite: &Suite) -> Result<ScenarioResult> {
    suite.install(&[])?;
    let cluster = &suite.cluster;
    let node = &cluster.nodes[0];
    let image = cluster.upstream.push("lab/pinned", "v1", &[1000])?;
    cluster.control.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: pinned}}\nspec:\n  nodeName: {}\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: app, image: '{}'}}\n",
        node.name,
        image.by_tag(),
    ))?;
    cluster
        .control
        .kubectl("wait pod/pinned --for condition=Ready --timeout 60s")?;
    let pod = cluster.control.get("pod pinned")?;
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str();
    let id = id.and_then(|id| id.strip_prefix("containerd://"));
    let id = id.context("the pod's container has no id")?.to_owned();

    // A mirror that starts now gets the existing mounts.
    let selector = format!("--selector app.kubernetes.io/component=peili -n {PEILI}");
    let here = format!("--field-selector spec.nodeName={}", node.name);
    cluster
        .control
        .kubectl(&format!("delete pod {selector} {here} --wait"))?;
    cluster.rolled_out("peili daemonset/peili")?;
    let mirror = suite.process(node).await?;
    let mounts = || fs::read_to_string(format!("/proc/{mirror}/mountinfo"));
    let were_seen = mounts()?.contains(&id);

    cluster.control.kubectl("delete pod pinned --wait")?;
    let tasks = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
    let folder = node.machine.path(tasks).join(&id);
    until(
        "the container's folder to go",
        async || Ok(!folder.exists()),
    )
    .await?;
    until(
        "the container's root to leave the mirror's mounts",
        async || Ok(!mounts()?.contains(&id)),
    )
    .await?;
    let seen = if were_seen {
        "seen before"
    } else {
        "never seen"
    };
    Ok(ScenarioResult::Passed(format!(
        "the container's root is gone from the mirror's mounts ({seen})"
    )))
}
