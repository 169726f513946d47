//! Why bytes came from upstream. containerd itself fetches content that was refused here, so the mirror sees no byte of
//! it: it counts the objects that appear in the store after this node's own client was sent upstream for them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use oci::{Digest, Key, Ranges, Registry};
use parking_lot::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::activity::Activities;
use crate::deliveries::Deliveries;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::registry_speeds::RegistrySpeeds;
use crate::request::Target;
use crate::{Store, UpstreamReason};

/// The most objects that this node's client was sent upstream for and that have not appeared yet. A node pulls a few at
/// a time; those that never appear are replaced by newer ones.
const WAITING: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// Counts the bytes that the node's own client fetched from upstream.
pub struct UpstreamBytes {
    waiting: Mutex<LruCache<Digest, Sent>>,
    metrics: Arc<Metrics>,
    activities: Arc<Activities>,
    speeds: Arc<RegistrySpeeds>,
    deliveries: Arc<Deliveries>,
}

/// How the client was sent upstream.
struct Sent {
    reason: UpstreamReason,
    /// The ranges of that request; the bytes before them were received here.
    ranges: Option<Ranges>,
    registry: Option<Registry>,
    at: Instant,
}

impl UpstreamBytes {
    pub fn new(
        metrics: Arc<Metrics>,
        activities: Arc<Activities>,
        speeds: Arc<RegistrySpeeds>,
        deliveries: Arc<Deliveries>,
    ) -> Self {
        Self {
            waiting: Mutex::new(LruCache::new(WAITING)),
            metrics,
            activities,
            speeds,
            deliveries,
        }
    }

    /// Records the answer to a client's request that fills the store.
    pub fn note(&self, target: &Target, result: Result<(), &Refusal>) {
        match result {
            _ if !target.fills_ingest() => {}
            Ok(()) => self.kept(target),
            Err(refusal) => self.sent(target, refusal),
        }
    }

    /// Records that the client was sent upstream for this object.
    fn sent(&self, target: &Target, refusal: &Refusal) {
        if let Some(digest) = target.digest().filter(|_| !target.head_only) {
            let sent = Sent {
                reason: refusal.reason(),
                ranges: target.ranges.clone(),
                registry: target.origin.as_ref().map(|origin| origin.registry.clone()),
                at: Instant::now(),
            };
            self.waiting.lock().put(digest.clone(), sent);
        }
    }

    /// Records that the client gets this object here after all.
    fn kept(&self, target: &Target) {
        if let Some(digest) = target.digest() {
            self.waiting.lock().pop(digest);
        }
    }

    /// Counts what appears in the store. Never returns. `changes`: those of its catalog.
    pub async fn count(&self, store: &dyn Store, mut changes: Receiver<Key>) {
        loop {
            match changes.recv().await {
                Ok(Key::Digest(digest)) => self.appeared(store, &digest),
                Ok(Key::Tag(_)) => {}
                Err(RecvError::Lagged(_)) => {
                    let digests: Vec<_> = {
                        let waiting = self.waiting.lock();
                        waiting.iter().map(|(digest, _)| digest.clone()).collect()
                    };
                    for digest in &digests {
                        self.appeared(store, digest);
                    }
                }
                // The store with the other end lives as long as this.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    fn appeared(&self, store: &dyn Store, digest: &Digest) {
        let Some(object) = store.catalog().object(digest) else {
            return;
        };
        if let Some(sent) = self.waiting.lock().pop(digest) {
            let ranges = sent.ranges.and_then(|r| r.resolve(object.size).ok());
            let begin = ranges.and_then(|ranges| Some(ranges.first()?.start));
            let bytes = object.size - begin.unwrap_or(0).min(object.size);
            self.metrics.count_upstream(sent.reason, bytes);
            if let Some(registry) = &sent.registry {
                self.speeds.received(registry, bytes, sent.at.elapsed());
            }
            if let Some(pull) = self.activities.get(digest) {
                pull.bytes.add_upstream(sent.reason, bytes);
            }
        }
        self.deliveries.committed(digest);
        self.activities.appeared(digest, object.size);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::activity::Changes;
    use crate::memory::MemoryStore;
    use crate::own_pull::OwnPull;
    use crate::request::{Caller, Kind};
    use crate::{Object, metrics};

    fn target(digest: &Digest, ranges: Option<&str>) -> Target {
        let ranges = ranges.map(|text| Ranges::parse(text).expect("sound").expect("bytes"));
        Target {
            kind: Kind::Blob,
            origin: None,
            reference: oci::Reference::Digest(digest.clone()),
            ranges,
            caller: Caller::Own,
            pull: OwnPull::default(),
            head_only: false,
            follower: None,
        }
    }

    #[tokio::test]
    async fn what_appears_is_counted_once_by_reason_and_from_where_it_was_asked_for() {
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::register(&mut registry));
        let (upstream, store) = (
            UpstreamBytes::new(
                metrics.clone(),
                Arc::new(Activities::new(Changes::default())),
                Arc::default(),
                Arc::default(),
            ),
            MemoryStore::default(),
        );
        let digests = [b"a", b"b", b"c"].map(|text| Digest::sha256(text));
        let [whole, rest, kept] = &digests;
        let changes = store.catalog().changes();
        upstream.sent(&target(whole, None), &Refusal::NoPeer(Kind::Blob));
        upstream.sent(
            &target(rest, Some("bytes=40-")),
            &Refusal::Alone(Kind::Blob),
        );
        upstream.sent(&target(kept, None), &Refusal::NoPeer(Kind::Blob));
        upstream.kept(&target(kept, None));
        let object = Object {
            size: 100,
            ..Object::default()
        };
        for digest in digests.iter().chain(&digests) {
            store.catalog().insert(digest.clone(), object.clone());
        }
        let counted = |reason| {
            let labels = metrics::ReasonLabels { reason };
            metrics.upstream_bytes.get_or_create(&labels).get()
        };
        let all = async {
            while counted("no_peer") + counted("alone") < 160 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = upstream.count(&store, changes) => unreachable!("it counts for ever"),
            () = all => {}
        }
        assert_eq!((counted("no_peer"), counted("alone")), (100, 60));
        assert_eq!(metrics.bytes.upstream.get(), 160);
    }
}
