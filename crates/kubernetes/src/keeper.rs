//! Executes the decisions of [`readiness`](crate::readiness) until the process ends.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, ApiError};
use crate::metrics::Metrics;
use crate::readiness::{Readiness, Step};
use crate::{Config, Mode, ServiceAccount, event};

/// The shortest interval between reads of the node. Each process chooses an interval in this range, so that the reads
/// of a cluster spread.
const MIN_POLL_INTERVAL: Duration = Duration::from_secs(45);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(75);
/// The number of consecutive conflicts that is reported to the operator: it is not due to chance any more.
const CONFLICTS_TOLD: u32 = 5;
/// The limit for all requests when the process ends.
const WITHDRAW_LIMIT: Duration = Duration::from_secs(2);
/// The most attempts at that, if other clients change the node at the same time.
const WITHDRAW_ATTEMPTS: u32 = 3;

/// What node readiness needs from the mirror on this node.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// What the mirror waits for before it is ready, as in `/readyz`. `None`: it is ready.
    fn waits_for(&self) -> Option<String>;

    /// Makes containerd pull a trial image that only this mirror has. Ends within a minute.
    ///
    /// # Errors
    /// Why it was not pulled through the mirror, and what to do.
    async fn trial(&self) -> Result<(), String>;
}

/// The readiness of this process's node.
#[derive(Debug)]
pub struct NodeReadiness {
    node: String,
    mode: Mode,
    api: Api,
    readiness: Readiness,
    metrics: Metrics,
}

impl NodeReadiness {
    /// Prepares the work; nothing is read or changed yet. Metrics are registered as `peili_node_readiness…`.
    pub fn new(config: Config, account: ServiceAccount, registry: &mut Registry) -> Self {
        let (node, mode) = (config.node.clone(), config.mode);
        let spread = (MAX_POLL_INTERVAL - MIN_POLL_INTERVAL).mul_f64(rand::random());
        let instance = format!("{:08x}", rand::random::<u32>());
        Self {
            api: Api::new(account, node.clone()),
            readiness: Readiness::new(config, instance, MIN_POLL_INTERVAL + spread),
            metrics: Metrics::register(registry),
            node,
            mode,
        }
    }

    /// Updates the node's taint or condition with the mirror's state until `shutdown`; then withdraws the condition,
    /// which takes at most 2 seconds.
    pub async fn keep(mut self, probe: &dyn Probe, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.follow(probe)).await;
        if self.mode == Mode::Condition
            && tokio::time::timeout(WITHDRAW_LIMIT, self.withdraw())
                .await
                .is_err()
        {
            tracing::warn!(
                node = self.node,
                "the node's condition was not withdrawn in time"
            );
        }
    }

    async fn follow(&mut self, probe: &dyn Probe) {
        let start = Instant::now();
        loop {
            let wall = SystemTime::now();
            let step = self
                .readiness
                .next(start.elapsed(), wall, probe.waits_for());
            self.metrics.set_state(self.readiness.state());
            match step {
                Step::Read { exact } => {
                    let node = self.api.node(exact).await;
                    let failures = self.readiness.read(start.elapsed(), node.as_ref().cloned());
                    self.tell(node.err(), failures, "get nodes");
                }
                Step::Trial => self.try_pull(probe, start).await,
                Step::Patch(patch) => {
                    let node = self.api.patch(&patch).await;
                    let failures = self
                        .readiness
                        .patched(start.elapsed(), node.as_ref().cloned());
                    if node.is_ok() {
                        tracing::info!(node = self.node, "{}", self.readiness.achievement());
                    }
                    let permission = match self.mode {
                        Mode::Taint => "patch nodes",
                        Mode::Condition => "patch nodes/status",
                    };
                    self.tell(node.err(), failures, permission);
                }
                Step::Report(message) => self.report(&message, wall).await,
                Step::WaitUntil(time) => tokio::time::sleep_until(start + time).await,
            }
        }
    }

    async fn try_pull(&mut self, probe: &dyn Probe, start: Instant) {
        let result = probe.trial().await;
        self.metrics.trial(result.is_ok());
        let is_news = self.readiness.tried(start.elapsed(), result.clone());
        match result {
            Ok(()) => tracing::info!(node = self.node, "containerd pulls through the mirror"),
            Err(error) if is_news => {
                tracing::warn!(
                    node = self.node,
                    error,
                    "the trial pull through the mirror failed; it is repeated"
                );
            }
            Err(error) => tracing::debug!(node = self.node, error, "the trial pull failed again"),
        }
    }

    async fn report(&self, message: &str, wall: SystemTime) {
        self.metrics.timed_out();
        tracing::warn!(node = self.node, "{message}");
        let Some(node) = self.readiness.node() else {
            return;
        };
        let now = humantime::format_rfc3339_seconds(wall).to_string();
        let event = event::warning(&self.node, node, message, &now, rand::random());
        let created = self.api.create_event(&event).await;
        self.tell(created.err(), 1, "create events (in the namespace default)");
    }

    /// Reports a failed request to the operator: once, and not a conflict that the next attempt resolves.
    fn tell(&self, error: Option<ApiError>, failures: u32, permission: &str) {
        let Some(error) = error else {
            return;
        };
        self.metrics.api_error();
        let told_at = if error.is_conflict() {
            CONFLICTS_TOLD
        } else {
            1
        };
        if failures != told_at {
            tracing::debug!(node = self.node, %error, failures, "a request to the API server failed");
        } else if error.is_forbidden() {
            tracing::warn!(
                node = self.node, %error,
                "node readiness lacks the permission to {permission}; grant it to the service account of the mirror"
            );
        } else {
            tracing::warn!(node = self.node, %error, "a request to the API server failed; it is repeated");
        }
    }

    async fn withdraw(&self) {
        for _ in 0..WITHDRAW_ATTEMPTS {
            let outcome = async {
                let node = self.api.node(true).await?;
                match self.readiness.withdraw(&node, SystemTime::now()) {
                    Some(patch) => self.api.patch(&patch).await.map(drop),
                    None => Ok(()),
                }
            };
            match outcome.await {
                Ok(()) => return,
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    tracing::warn!(node = self.node, %error, "the node's condition was not withdrawn");
                    return;
                }
            }
        }
    }
}
