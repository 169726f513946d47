//! The memory of a mirror with many concurrent pulls.

use std::fs;
use std::process::Child;

use anyhow::{Context, Result, ensure};
use e2e::kube::Upstream;

use crate::suite::{ScenarioResult, Suite};

const STREAMS: usize = 32;

/// The size of each stream's blob, in bytes.
const BLOB: usize = 256 << 20;

/// 32 streams from a peer through one mirror complete within the chart's memory limit.
pub async fn limit_holds_under_32_streams(suite: &Suite) -> Result<ScenarioResult> {
    let limit = "resources.limits.memory=64Mi";
    suite.install(&["--set", limit])?;
    let cluster = &suite.cluster;
    let [node, holder, ..] = &cluster.nodes[..] else {
        unreachable!("a cluster has three nodes");
    };
    let image = cluster.upstream.push("lab/large", "v1", &[BLOB])?;
    holder.cri.pull(&image.by_tag()).await?;
    suite.finds(node, &image).await?;
    node.cri.remove(&image.by_tag()).await?;

    let before = suite.process(node).await?;
    let pod = &suite.mirrors(node)?[0];
    let address = pod["status"]["podIP"]
        .as_str()
        .context("the mirror has an address")?;
    // The configuration is the first of an image's blobs.
    let url = format!("http://{address}:5000{}", Upstream::blob_path(&image, 1));
    let mut streams = Vec::new();
    let sent = suite
        .sent_during(async {
            for _ in 0..STREAMS {
                let mut wget = cluster.control.machine.host.command("busybox");
                streams.push(wget.args(["wget", "-q", "-O", "/dev/null", &url]).spawn()?);
            }
            let ended = streams
                .iter_mut()
                .map(Child::wait)
                .collect::<Result<Vec<_>, _>>()?;
            let complete = ended.iter().filter(|status| status.success()).count();
            ensure!(
                complete == STREAMS,
                "{complete} of {STREAMS} streams were complete"
            );
            Ok(())
        })
        .await?;
    let after = suite.process(node).await?;
    ensure!(
        before == after,
        "the mirror was restarted: it was killed for its memory"
    );
    let peak = peak_memory(after)?;
    Ok(ScenarioResult::Passed(format!(
        "{STREAMS} streams of {} MiB complete; peak RSS {:.1} MiB of 64; upstream sent {:.1} MB",
        BLOB >> 20,
        peak as f64 / 1024.0,
        sent as f64 / 1e6
    )))
}

/// The peak resident memory of a process, in KiB.
fn peak_memory(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse().ok());
    peak.with_context(|| format!("no peak of memory in the status of process {pid}"))
}
