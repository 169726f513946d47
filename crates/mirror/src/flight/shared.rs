//! The state shared by requests, bodies and watchers of flights.

use std::sync::Arc;
use std::time::Duration;

use oci::Digest;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pulls::Pulls;
use super::speed::Speed;
use super::uploads::Uploads;
use crate::body::send_memory::{SendMemory, Share};
use crate::fetch::Fetcher;
use crate::flights::pull_rules;
use crate::images::{Images, ObjectInfo};
use crate::metrics::Metrics;
use crate::request::Target;
use crate::{Flights, Growing, Store, local};

pub struct Shared {
    pub flights: Arc<dyn Flights>,
    pub store: Arc<dyn Store>,
    pub memory: SendMemory,
    pub fetcher: Arc<Fetcher>,
    pub metrics: Arc<Metrics>,
    pub images: Arc<Images>,
    pub pulls: Pulls,
    pub uploads: Arc<Uploads>,
    pub speed: Arc<Speed>,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl Shared {
    /// Runs a task until it or the mirror ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(stop.run_until_cancelled_owned(task));
    }

    /// What is known about the requested object.
    pub fn object_info(&self, target: &Target, digest: &Digest) -> ObjectInfo {
        let mut object_info = self.images.object_info(digest);
        if object_info.size.is_none() {
            let ingest = target.pull.ingest.as_ref();
            object_info.size = ingest.and_then(|growing| growing.progress().total);
        }
        object_info
    }

    /// The time after which a body ends rather than wait for another source. containerd requests the rest after its
    /// queued downloads.
    pub fn end_after(&self) -> Option<Duration> {
        self.store
            .downloads_share_slots()
            .then_some(pull_rules::REQUEUE_AFTER)
    }

    /// Whether the object is complete in the store.
    pub async fn holds(&self, digest: &Digest) -> bool {
        let digest = digest.clone();
        let open = move |store: &dyn Store| matches!(store.open(&digest), Ok(Some(_)));
        local::read_store(&self.store, open).await.unwrap_or(false)
    }

    /// The bytes of an object received so far, looked up again for a client with this share of the memory.
    pub async fn ingest(&self, digest: &Digest, share: &Share) -> Option<Growing> {
        let ingest = local::ingest(&self.store, share, digest).await?;
        let total = self.images.object_info(digest).size;
        Some(ingest.growing.or_total(total))
    }
}
