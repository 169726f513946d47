//! Tells peers what this node holds: follows the catalog and keeps the router's announcements equal to it.

use std::collections::HashMap;
use std::sync::Arc;

use oci::Key;
use tokio::sync::broadcast::error::RecvError;

use crate::access::Access;
use crate::metrics::{Metrics, RegistryLabels};
use crate::{Router, Store};

/// Keys handed to the router at a time.
const BATCH: usize = 256;

/// Runs for ever.
pub async fn run(
    store: Arc<dyn Store>,
    router: Arc<dyn Router>,
    access: Access,
    metrics: Arc<Metrics>,
) {
    let mut changes = store.catalog().changes();
    let mut announcer = Announcer {
        store,
        router,
        access,
        metrics,
        announced: HashMap::new(),
    };
    announcer.all().await;
    loop {
        match changes.recv().await {
            Ok(key) => {
                let mut keys = vec![key];
                while keys.len() < BATCH
                    && let Ok(key) = changes.try_recv()
                {
                    keys.push(key);
                }
                announcer.some(keys).await;
            }
            Err(RecvError::Lagged(_)) => announcer.all().await,
            // The store that holds the other end is ours.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

struct Announcer {
    store: Arc<dyn Store>,
    router: Arc<dyn Router>,
    access: Access,
    metrics: Arc<Metrics>,
    /// What the router was told, under which registry it is counted.
    announced: HashMap<Key, RegistryLabels>,
}

impl Announcer {
    /// Looks at every key that is in the catalog or was announced.
    async fn all(&mut self) {
        let mut keys = self.store.catalog().keys();
        keys.extend(self.announced.keys().cloned());
        for batch in keys.chunks(BATCH) {
            self.some(batch.to_vec()).await;
        }
    }

    async fn some(&mut self, keys: Vec<Key>) {
        let (mut announce, mut withdraw) = (Vec::new(), Vec::new());
        for key in keys {
            // A tag that would not be answered would make a liar of this node.
            let answered = self.access.resolve_tags || matches!(key, Key::Digest(_));
            let wanted = answered && self.store.catalog().announces(&key, &self.access.filter);
            if wanted && !self.announced.contains_key(&key) {
                let labels = self.labels(&key);
                self.count(&key, &labels, 1);
                self.announced.insert(key.clone(), labels);
                announce.push(key);
            } else if !wanted && let Some(labels) = self.announced.remove(&key) {
                self.count(&key, &labels, -1);
                withdraw.push(key);
            }
        }
        if !withdraw.is_empty() {
            self.router.withdraw(withdraw).await;
        }
        if !announce.is_empty() {
            self.router.announce(announce).await;
        }
    }

    fn count(&self, key: &Key, labels: &RegistryLabels, by: i64) {
        let family = match key {
            Key::Tag(_) => &self.metrics.advertised_tags,
            Key::Digest(_) => &self.metrics.advertised_digests,
        };
        family.get_or_create(labels).inc_by(by);
    }

    fn labels(&self, key: &Key) -> RegistryLabels {
        let registry = match key {
            Key::Tag(name) => Some(name.origin.registry.to_string()),
            Key::Digest(digest) => {
                let object = self.store.catalog().object(digest);
                object.and_then(|o| o.origins.first().map(|origin| origin.registry.to_string()))
            }
        };
        RegistryLabels {
            registry: registry.unwrap_or_default(),
        }
    }
}
