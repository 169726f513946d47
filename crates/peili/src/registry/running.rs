//! A running mirror: its tasks, and the order in which they end.
//!
//! Why in this order: `docs/decisions/0006-shutdown-without-a-gap.md`.

use std::sync::Arc;
use std::time::Duration;

use mirror::Mirror;
use mirror::serve::{ConnectionLimits, Shutdown, registry_within};
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::observe::{self, Pages};
use crate::service_manager;

/// The limit for telling peers and Kubernetes that this mirror is about to end.
const WITHDRAW_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct Running {
    pub mirror: Arc<Mirror>,
    pub cluster: swarm::Handle,
    /// The tasks that run until the process ends.
    pub tasks: JoinSet<()>,
    /// The announcement of this node's content.
    pub announcing: JoinSet<()>,
    /// The registry port.
    pub serving: JoinSet<()>,
    /// Node readiness: Kubernetes learns of the end before it happens.
    pub readiness: JoinSet<()>,
    /// The export of traces.
    pub exporting: JoinSet<()>,
    pub port: Shutdown,
    /// Ends node readiness.
    pub leaving: CancellationToken,
    /// Ends the export once all traces are sent.
    pub all_sent: CancellationToken,
    pub shutdown_delay: Duration,
    pub drain_timeout: Duration,
}

impl Running {
    /// Starts the tasks that run until the shutdown, and the two ports.
    pub fn serve(
        &mut self,
        (limits, registry): (ConnectionLimits, TcpListener),
        (observe, metrics, pages): (TcpListener, observe::Metrics, Pages),
    ) {
        let (mirror, port) = (self.mirror.clone(), self.port.clone());
        self.serving
            .spawn(registry_within(limits.registry, registry, mirror, port));
        let (mirror, close) = (self.mirror.clone(), self.port.close.clone());
        self.tasks.spawn(observe::serve(
            limits.http,
            observe,
            metrics,
            mirror,
            pages,
            close,
        ));
        let mirror = self.mirror.clone();
        self.announcing
            .spawn(async move { mirror.announce().await });
        let mirror = self.mirror.clone();
        self.tasks
            .spawn(async move { mirror.count_upstream_bytes().await });
        let mirror = self.mirror.clone();
        self.tasks.spawn(async move { mirror.keep_proofs().await });
        self.tasks
            .spawn(service_manager::notify(self.mirror.clone()));
    }

    /// Waits for `shutdown`.
    ///
    /// # Errors
    /// A task has ended that should never end.
    pub async fn until(&mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            () = self.cluster.failed() => Err(anyhow::anyhow!("the router ended; its last log lines say why")),
            Some(ended) = self.serving.join_next() => Err(unexpected(ended)),
            Some(ended) = self.announcing.join_next() => Err(unexpected(ended)),
            Some(ended) = self.tasks.join_next() => Err(unexpected(ended)),
            Some(ended) = self.readiness.join_next() => Err(unexpected(ended)),
        }
    }

    /// Ends all tasks: first the node can no longer be found, then it stops answering.
    pub async fn shut_down(mut self) {
        service_manager::stopping();
        self.mirror.leave();
        self.port.drain.cancel();
        self.leaving.cancel();
        let withdrawn = timeout(WITHDRAW_LIMIT, ended(&mut self.announcing));
        let told = timeout(WITHDRAW_LIMIT, ended(&mut self.readiness));
        let _ = tokio::join!(withdrawn, told, sleep(self.shutdown_delay));
        self.port.close.cancel();
        self.cluster.shutdown().await;
        let drained = timeout(self.drain_timeout, ended(&mut self.serving));
        if drained.await.is_err() {
            tracing::warn!(after = ?self.drain_timeout, "requests were cut off; containerd resumes them elsewhere");
        }
        self.all_sent.cancel();
        ended(&mut self.exporting).await;
    }
}

async fn ended(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// The error about a task that should never have ended.
fn unexpected(ended: Result<(), JoinError>) -> anyhow::Error {
    match ended {
        Err(error) => anyhow::Error::from(error).context("a task failed"),
        Ok(()) => anyhow::anyhow!("a task that runs for ever has ended"),
    }
}
