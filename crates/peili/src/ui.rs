//! `peili ui`: the status page of a mirror in a cluster, through the user's own kubectl.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cli::UiArgs;
use crate::fault::Faults;
use crate::kubectl::Kubectl;
use crate::value;

/// The interval between checks whether kubectl still runs.
const POLL: Duration = Duration::from_millis(200);

/// Forwards a port to the page of a node's mirror until `shutdown`.
///
/// # Errors
/// The arguments are at fault, there is no such mirror, or kubectl ends.
pub async fn run(arguments: &UiArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut faults = Faults::default();
    let port = faults.take("--port", value::number(&arguments.port, 1..=u16::MAX));
    let remote = value::number(&arguments.metrics_port, 1..=u16::MAX);
    let remote = faults.take("--metrics-port", remote);
    let (port, remote) = faults.settle(port.zip(remote))?;
    let kubectl = Kubectl::new(&arguments.namespace);
    let pods = kubectl.pods().await?;
    let wanted = |node: &str| arguments.node.is_empty() || node == arguments.node;
    let pod = pods.iter().find(|pod| wanted(&pod.node));
    let nodes = || {
        let nodes: Vec<_> = pods.iter().map(|pod| pod.node.as_str()).collect();
        format!(
            "no mirror runs on node {}; there are {}",
            arguments.node,
            nodes.join(", ")
        )
    };
    let pod = pod.with_context(nodes)?;
    let mut forward = kubectl.forward(pod, port, remote)?;
    println!(
        "the mirror of node {}: http://127.0.0.1:{port}/ (until interrupted)",
        pod.node
    );
    let ended = loop {
        if let Some(status) = forward.try_wait()? {
            break status;
        }
        if shutdown.run_until_cancelled(sleep(POLL)).await.is_none() {
            // The same signal may have ended it.
            let _ = forward.kill();
            forward.wait()?;
            return Ok(());
        }
    };
    bail!("kubectl port-forward ended: {ended}");
}
