//! The metrics of the store.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Registered under these names with the prefix `peili_containerd_`.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// `connected`: 1 while containerd is connected and was listed, else 0.
    pub connected: Gauge,
    /// `connections_total`: connections to containerd, so that restarts can be counted.
    pub connections: Counter,
    /// `objects`: complete objects in the configured namespaces, as of the last listing.
    pub objects: Gauge,
    /// `tags`: image names with registry and tag, as of the last listing.
    pub tags: Gauge,
    /// `listings_total`: listings of everything.
    pub listings: Counter,
    /// `events_total{source}`: changes reported by inotify (`folder`) and by containerd (`events`).
    pub events: Family<Source, Counter>,
    /// `watching`: 1 while inotify watches the content folder; 0 while only listings do.
    pub watching: Gauge,
    /// `labelled_seconds`: from a blob's appearance on disk until its labels are known.
    pub labelled: Histogram,
    pub retain: RetainMetrics,
}

/// The metrics of retained layers.
#[derive(Clone, Debug, Default)]
pub(crate) struct RetainMetrics {
    /// `retained`: blobs kept by leases of this mirror.
    pub objects: Gauge,
    /// `retained_bytes`: the sum of their sizes.
    pub bytes: Gauge,
    /// `released_total{reason}`: blobs no longer kept, because their time was over (`expired`), because of
    /// `--retain-bytes` (`size`), or because the disk was full (`pressure`).
    pub released: Family<Released, Counter>,
    /// `retain_failures_total`: calls about leases that failed.
    pub failures: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Released {
    pub reason: &'static str,
}

impl RetainMetrics {
    pub fn holds(&self, objects: usize, bytes: u64) {
        self.objects.set(i64::try_from(objects).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "retained",
            "Blobs that are kept from being discarded",
            self.objects.clone(),
        );
        registry.register(
            "retained_bytes",
            "Bytes of the blobs that are kept from being discarded",
            self.bytes.clone(),
        );
        registry.register(
            "released",
            "Blobs that are kept no longer",
            self.released.clone(),
        );
        registry.register(
            "retain_failures",
            "Calls about leases that failed",
            self.failures.clone(),
        );
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Source {
    pub source: &'static str,
}

impl Source {
    pub const FOLDER: Self = Self { source: "folder" };
    pub const EVENTS: Self = Self { source: "events" };
}

/// The bucket bounds of `labelled_seconds`.
const LABELLED: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

impl Metrics {
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            connected: Gauge::default(),
            connections: Counter::default(),
            objects: Gauge::default(),
            tags: Gauge::default(),
            listings: Counter::default(),
            events: Family::default(),
            watching: Gauge::default(),
            labelled: Histogram::new(LABELLED),
            retain: RetainMetrics::default(),
        };
        let registry = registry.sub_registry_with_prefix("peili_containerd");
        let mut gauge = |name, help, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge(
            "connected",
            "1 while containerd is connected and listed",
            &metrics.connected,
        );
        gauge(
            "objects",
            "Complete objects at the last listing",
            &metrics.objects,
        );
        gauge("tags", "Tags of images at the last listing", &metrics.tags);
        gauge(
            "watching",
            "1 while inotify watches the content folder",
            &metrics.watching,
        );
        registry.register(
            "connections",
            "Connections made to containerd",
            metrics.connections.clone(),
        );
        registry.register(
            "listings",
            "Times that all content and images were listed",
            metrics.listings.clone(),
        );
        registry.register(
            "events",
            "Changes told by the content folder and by containerd",
            metrics.events.clone(),
        );
        registry.register(
            "labelled_seconds",
            "From a blob's appearance on disk until its labels are known",
            metrics.labelled.clone(),
        );
        metrics.retain.register(registry);
        metrics
    }

    pub fn labelled_after(&self, time: Duration) {
        self.labelled.observe(time.as_secs_f64());
    }
}
