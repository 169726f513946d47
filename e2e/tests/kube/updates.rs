//! Mirrors that are replaced while nodes pull through them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::Image;
use e2e::kube::{Pulls, Spegel, Tally};

use crate::suite::{PEILI, ScenarioResult, Suite, app_version};

/// How much longer the slowest pull during an update may take than the slowest one without.
const ADDED: Duration = Duration::from_millis(500);

/// The number of pulls without an update, for comparison.
const PULLS: usize = 100;

/// The release and the namespace of Spegel.
pub const SPEGEL: &str = "spegel";

/// Why a scenario with Spegel is not run.
pub const WITHOUT_SPEGEL: &str = "needs --spegel-chart DIR --spegel-image ARCHIVE";

/// The chart's DaemonSet in a release of Spegel's name.
const SUCCESSOR: &str = "spegel-peili";

/// During a rolling update and its rollback no pull fails, and none takes much longer.
pub async fn rolling_update(suite: &Suite) -> Result<ScenarioResult> {
    suite.install(&[])?;
    let image = held_by_first(suite, "update").await?;
    let still = Pulls::start(others(suite), &image.by_tag());
    still.more(PULLS).await?;
    let still = still.finish().await;
    ensure_none_failed(&still)?;

    let start = Instant::now();
    let pulls = Pulls::start(others(suite), &image.by_tag());
    let before = suite.cluster.upstream.sent()?;
    suite.install(&["--set-string", "podAnnotations.update=1"])?;
    let updated = start.elapsed().as_secs_f32();
    let rollback = [
        "rollback",
        PEILI,
        "--namespace",
        PEILI,
        "--wait",
        "--timeout",
        "180s",
    ];
    suite.cluster.control.helm(rollback)?;
    suite.cluster.rolled_out("peili daemonset/peili")?;
    let both = start.elapsed().as_secs_f32();
    let sent = (suite.cluster.upstream.sent()? - before) as f64 / 1e6;
    let pulls = pulls.finish().await;
    ensure_none_failed(&pulls)?;
    let figures = format!(
        "update {updated:.1} s, with rollback {both:.1} s: {pulls}, upstream sent {sent:.1} MB; without: {still}"
    );
    ensure!(
        pulls.slowest() <= still.slowest() + ADDED,
        "too slow: {figures}"
    );
    Ok(ScenarioResult::Passed(figures))
}

/// Spegel's release is upgraded to Peili's chart while nodes pull, and then uninstalled.
pub async fn upgrade_from_spegel_in_place(suite: &Suite) -> Result<ScenarioResult> {
    if let Some(not_run) = install_spegel(suite).await? {
        return Ok(not_run);
    }
    let image = held_by_first(suite, "in-place").await?;
    let pulls = Pulls::start(others(suite), &image.by_tag());
    suite.install_as(SPEGEL, SUCCESSOR, &[])?;
    let pulls = pulls.finish().await;
    ensure_none_failed(&pulls)?;
    let daemonsets = suite
        .cluster
        .control
        .kubectl("get daemonsets -n spegel -o name")?;
    ensure!(
        daemonsets.trim() == format!("daemonset.apps/{SUCCESSOR}"),
        "left: {daemonsets}"
    );
    suite.finds(&suite.cluster.nodes[1], &image).await?;
    suite.uninstall(SPEGEL, &[])?;
    suite.ensure_hosts_as_before()?;
    Ok(ScenarioResult::Passed(format!(
        "{pulls}; hosts.toml files as before Spegel"
    )))
}

/// Peili is installed beside Spegel on another port, and Spegel is removed without its clean-up.
pub async fn move_from_spegel_side_by_side(suite: &Suite) -> Result<ScenarioResult> {
    if let Some(not_run) = install_spegel(suite).await? {
        return Ok(not_run);
    }
    let image = held_by_first(suite, "side-by-side").await?;
    let pulls = Pulls::start(others(suite), &image.by_tag());
    suite.install(&["--set", "service.registry.nodePort=30030"])?;
    suite.uninstall(SPEGEL, &["--no-hooks"])?;
    let pulls = pulls.finish().await;
    ensure_none_failed(&pulls)?;
    suite.finds(&suite.cluster.nodes[1], &image).await?;
    suite.uninstall(PEILI, &[])?;
    suite.ensure_hosts_as_before()?;
    Ok(ScenarioResult::Passed(format!(
        "{pulls}; hosts.toml files as before Spegel"
    )))
}

/// Installs Spegel in place of Peili. Without its chart, returns a result that says so.
async fn install_spegel(suite: &Suite) -> Result<Option<ScenarioResult>> {
    let Some(spegel) = prepare_for_spegel(suite).await? else {
        return Ok(Some(ScenarioResult::NotRun(WITHOUT_SPEGEL.to_owned())));
    };
    let tag = app_version(&spegel.chart)?;
    let upstream = &suite.cluster.upstream;
    upstream.push_archive(&spegel.image, "spegel-org/spegel", &tag)?;
    suite.helm(SPEGEL, &spegel.chart, &[])?;
    suite.cluster.rolled_out("spegel daemonset/spegel")?;
    Ok(None)
}

/// Prepares the cluster for Spegel's chart, if it is given.
pub async fn prepare_for_spegel(suite: &Suite) -> Result<Option<&Spegel>> {
    let Some(spegel) = &suite.options.spegel else {
        return Ok(None);
    };
    suite.uninstall(PEILI, &["--ignore-not-found"])?;
    // Its pods wait for a content store on their node, and a fresh containerd has none.
    for node in &suite.cluster.nodes {
        node.cri.pull("registry.lab/pause:1").await?;
    }
    Ok(Some(spegel))
}

/// An image of 20 MB that the first node has and the others find there.
async fn held_by_first(suite: &Suite, tag: &str) -> Result<Image> {
    let image = suite
        .cluster
        .upstream
        .push("lab/constant", tag, &[5_000_000; 4])?;
    let [first, others @ ..] = &suite.cluster.nodes[..] else {
        unreachable!("a cluster has nodes");
    };
    first.cri.pull(&image.by_tag()).await?;
    for node in others {
        suite.finds(node, &image).await?;
    }
    Ok(image)
}

fn others(suite: &Suite) -> Vec<e2e::Cri> {
    suite.cluster.nodes[1..]
        .iter()
        .map(|node| node.cri.clone())
        .collect()
}

fn ensure_none_failed(pulls: &Tally) -> Result<()> {
    ensure!(
        pulls.failures.is_empty(),
        "{pulls}: {}",
        pulls.failures.join("; ")
    );
    Ok(())
}
