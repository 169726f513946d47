//! Node readiness: what `kubernetes` asks of the mirror and of containerd.

use std::sync::Arc;

use async_trait::async_trait;
use kubernetes::Probe;
use mirror::{Health, Mirror};
use oci::Registry;

/// The mirror of this node, and the containerd that is to pull through it.
pub struct MirrorProbe {
    pub mirror: Arc<Mirror>,
    pub containerd: containerd::Config,
    /// The registry of trial images.
    pub registry: Registry,
}

#[async_trait]
impl Probe for MirrorProbe {
    fn waits_for(&self) -> Option<String> {
        match self.mirror.health() {
            Health::Ready => None,
            Health::Waiting(why) => Some(why),
        }
    }

    async fn trial(&self) -> Result<(), String> {
        let trials = self.mirror.trials();
        containerd::run_trial(&self.containerd, &trials, &self.registry)
            .await
            .map_err(|error| error.to_string())
    }
}
