//! The metrics of the store.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::space::Space;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// `peili_store_bytes`: bytes of the objects that are here.
    bytes: Gauge,
    /// `peili_store_limit_bytes`: their limit, `--store-limit`.
    limit: Gauge,
    /// `peili_store_objects`: the number of objects.
    objects: Gauge,
    /// `peili_store_evictions_total`: objects removed to make room.
    pub(crate) evictions: Counter,
    /// `peili_store_damaged_total`: objects that were found removed, damaged or unreadable, and are fetched again.
    pub(crate) damaged: Counter,
    /// `peili_store_failed_intakes_total`: intakes that did not succeed: abandoned by the fetcher, wrong bytes, no
    /// room, a failing disk.
    pub(crate) failed_intakes: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "peili_store_bytes",
            "Bytes of the objects in the embedded store",
            metrics.bytes.clone(),
        );
        registry.register(
            "peili_store_limit_bytes",
            "Bytes that the objects in the embedded store may have",
            metrics.limit.clone(),
        );
        registry.register(
            "peili_store_objects",
            "Objects in the embedded store",
            metrics.objects.clone(),
        );
        registry.register(
            "peili_store_evictions",
            "Objects removed from the embedded store to make room",
            metrics.evictions.clone(),
        );
        registry.register(
            "peili_store_damaged",
            "Objects of the embedded store that were found removed, damaged or unreadable",
            metrics.damaged.clone(),
        );
        registry.register(
            "peili_store_failed_intakes",
            "Objects whose download into the embedded store failed or was abandoned",
            metrics.failed_intakes.clone(),
        );
        metrics
    }

    pub(crate) fn show(&self, space: &Space) {
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.bytes.set(gauge(space.held()));
        self.limit.set(gauge(space.limit()));
        self.objects.set(gauge(space.len() as u64));
    }
}
