//! Announces this node's content to peers: follows the catalog and keeps the router's announcements equal to it.

use std::collections::HashMap;
use std::sync::Arc;

use oci::{Digest, Key};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::metrics::{Metrics, RegistryLabels};
use crate::{Router, Store};

/// The most keys passed to the router at a time.
const BATCH: usize = 256;

/// Runs until `leave`, and then withdraws all that was announced.
pub async fn run(
    store: Arc<dyn Store>,
    router: Arc<dyn Router>,
    access: Access,
    metrics: Arc<Metrics>,
    leave: CancellationToken,
) {
    let mut changes = store.catalog().changes();
    let mut announcer = Announcer {
        store,
        router,
        access,
        metrics,
        announced: HashMap::new(),
        images: HashMap::new(),
    };
    leave
        .run_until_cancelled(announcer.follow(&mut changes))
        .await;
    announcer.nothing().await;
}

struct Announcer {
    store: Arc<dyn Store>,
    router: Arc<dyn Router>,
    access: Access,
    metrics: Arc<Metrics>,
    /// The keys announced to the router, and how they are counted.
    announced: HashMap<Key, Counted>,
    /// The number of announced tags of a registry that point to an image.
    images: HashMap<(RegistryLabels, Digest), usize>,
}

/// How a key is counted.
struct Counted {
    registry: RegistryLabels,
    /// The target of a tag.
    image: Option<Digest>,
}

impl Announcer {
    /// Keeps the router's announcements equal to the catalog. Never returns.
    async fn follow(&mut self, changes: &mut Receiver<Key>) {
        self.all().await;
        loop {
            match changes.recv().await {
                Ok(key) => {
                    let mut keys = vec![key];
                    while keys.len() < BATCH
                        && let Ok(key) = changes.try_recv()
                    {
                        keys.push(key);
                    }
                    self.some(keys).await;
                }
                Err(RecvError::Lagged(_)) => self.all().await,
                // The store with the other end lives as long as this.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// Withdraws all announcements.
    async fn nothing(&mut self) {
        let keys: Vec<_> = self.announced.keys().cloned().collect();
        for batch in keys.chunks(BATCH) {
            self.router.withdraw(batch.to_vec()).await;
        }
    }

    /// Checks every key that is in the catalog or was announced.
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
            // A tag that would not be answered must not be announced.
            let answered = self.access.resolve_tags || matches!(key, Key::Digest(_));
            let wanted = answered && self.store.catalog().announces(&key, &self.access.filter);
            let known = self.announced.remove(&key);
            if let Some(counted) = &known {
                self.count(&key, counted, -1);
            }
            if wanted {
                let counted = self.counted(&key);
                self.count(&key, &counted, 1);
                self.announced.insert(key.clone(), counted);
            }
            match (known, wanted) {
                (None, true) => announce.push(key),
                (Some(_), false) => withdraw.push(key),
                (None, false) | (Some(_), true) => {}
            }
        }
        if !withdraw.is_empty() {
            self.router.withdraw(withdraw).await;
        }
        if !announce.is_empty() {
            self.router.announce(announce).await;
        }
    }

    fn count(&mut self, key: &Key, counted: &Counted, by: i64) {
        let family = match key {
            Key::Tag(_) => &self.metrics.advertised_tags,
            Key::Digest(_) => &self.metrics.advertised_digests,
        };
        family.get_or_create(&counted.registry).inc_by(by);
        if let Some(image) = &counted.image {
            let entry = (counted.registry.clone(), image.clone());
            let tags = self.images.entry(entry.clone()).or_default();
            let before = usize::from(*tags > 0);
            *tags = tags.saturating_add_signed(by as isize);
            let after = usize::from(*tags > 0);
            if after == 0 {
                self.images.remove(&entry);
            }
            self.metrics
                .advertised_images
                .get_or_create(&counted.registry)
                .inc_by(after as i64 - before as i64);
        }
    }

    fn counted(&self, key: &Key) -> Counted {
        let catalog = self.store.catalog();
        let (registry, image) = match key {
            Key::Tag(name) => {
                let registry = name.origin.registry.to_string();
                (Some(registry), catalog.resolve(name))
            }
            Key::Digest(digest) => {
                let object = catalog.object(digest);
                let origin = object.and_then(|o| o.origins.first().cloned());
                (origin.map(|origin| origin.registry.to_string()), None)
            }
        };
        Counted {
            registry: RegistryLabels {
                registry: registry.unwrap_or_default(),
            },
            image,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use oci::TagName;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::memory::{MemoryCluster, MemoryStore};
    use crate::{Candidate, PeerId};

    #[tokio::test]
    async fn gauges_follow_what_is_announced() {
        let store = Arc::new(MemoryStore::default());
        let tag = |text: &str| -> TagName {
            let name = text.parse::<oci::Name>().ok();
            name.and_then(|name| name.tag_name())
                .expect("a tag in full")
        };
        let (one, two) = (tag("quay.io/a/b:1"), tag("quay.io/a/b:2"));
        let image = store.put(&one.origin, Bytes::from_static(b"image"));
        let layer = store.put(&one.origin, Bytes::from_static(b"layer"));
        let here = Candidate {
            peer: PeerId::new("here"),
            addresses: Arc::new([]),
        };
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        let catalog = store.catalog();
        catalog.tag(one.clone(), image.clone());
        catalog.tag(two.clone(), image.clone());
        let mut announcer = Announcer {
            store: store.clone(),
            router: Arc::new(MemoryCluster::default().router(here)),
            access: Access {
                resolve_tags: true,
                ..Access::default()
            },
            metrics: metrics.clone(),
            announced: HashMap::new(),
            images: HashMap::new(),
        };
        let labels = RegistryLabels {
            registry: "quay.io".into(),
        };
        let gauges = || {
            [
                &metrics.advertised_tags,
                &metrics.advertised_images,
                &metrics.advertised_digests,
            ]
            .map(|family| family.get_or_create(&labels).get())
        };
        announcer.all().await;
        announcer.all().await;
        assert_eq!(gauges(), [2, 1, 2], "two tags of one image, and a layer");
        catalog.tag(two.clone(), layer.clone());
        announcer.all().await;
        assert_eq!(gauges(), [2, 2, 2], "a tag that moved");
        catalog.untag(&one);
        announcer.all().await;
        assert_eq!(gauges(), [1, 1, 2]);
        announcer.nothing().await;
    }
}
