//! Node readiness: what `kubernetes` needs from the mirror and from containerd.

use std::sync::Arc;

use async_trait::async_trait;
use doctor::Trial;
use kubernetes::Probe;
use mirror::{Health, Mirror};
use oci::Registry;
use tokio::time::Instant;

use crate::observe::LastTrial;

/// The mirror of this node, and the containerd that pulls through it.
pub struct MirrorProbe {
    pub mirror: Arc<Mirror>,
    pub containerd: containerd::Config,
    /// The registry of trial images.
    pub registry: Registry,
    /// The result of the last trial, for viewers of the mirror.
    pub last: LastTrial,
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
        let (trials, began) = (self.mirror.trials(), Instant::now());
        let tried = containerd::run_trial(&self.containerd, &trials, &self.registry).await;
        let tried = tried.map_err(|error| error.to_string());
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        *self.last.lock() = Some(match &tried {
            Ok(()) => Trial::CameThrough { milliseconds },
            Err(why) => Trial::Failed(why.clone()),
        });
        tried
    }
}
