//! The metrics of the mirror. Names that Spegel has as well mean the same here.

mod register;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::UpstreamReason;
use crate::peers::Fault;
use crate::request::Caller;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct MirrorLabels {
    /// The registry as the client named it. Empty: it named none. `other`: for the 65th and further ones, and for those
    /// that this node's own client has never named.
    pub registry: String,
    /// `hit` or `miss`.
    pub cache: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct HttpLabels {
    pub handler: &'static str,
    pub method: &'static str,
    pub code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct HandlerLabels {
    pub handler: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RegistryLabels {
    pub registry: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct SourceLabels {
    /// `local`, `growing`, `peer` or `upstream`.
    pub source: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReasonLabels {
    /// The name from [`UpstreamReason::as_str`].
    pub reason: &'static str,
}

/// One counter for each source of bytes.
pub struct Bytes {
    family: Family<SourceLabels, Counter>,
    pub local: Counter,
    pub growing: Counter,
    pub peer: Counter,
    pub upstream: Counter,
}

impl Default for Bytes {
    fn default() -> Self {
        let family: Family<SourceLabels, Counter> = Family::default();
        let of = |source| family.get_or_create_owned(&SourceLabels { source });
        Self {
            local: of("local"),
            growing: of("growing"),
            peer: of("peer"),
            upstream: of("upstream"),
            family,
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct FaultLabels {
    /// `failed`, `broke`, `lacking`, `busy` or `wrong`.
    pub fault: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct CheckLabels {
    /// `granted`, `refused`, `not_found`, `failed`, `slow` or `unreachable`.
    pub answer: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OutsideNetworkLabels {
    /// `missing`, `wrong_key`, `clock` or `no_certificate`.
    pub reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DecisionLabels {
    /// `follow`, `lead`, `alone` or `later`.
    pub outcome: &'static str,
}

/// The most registries with a label of their own; requests may name any number of others.
const MAX_REGISTRIES: usize = 64;

/// The metrics of the pipeline, described in `metrics/register.rs`.
pub struct Metrics {
    registries: Mutex<BTreeSet<oci::Registry>>,
    pub mirror_requests: Family<MirrorLabels, Counter>,
    pub mirror_last_success: Gauge,
    pub request_seconds: Family<HttpLabels, Histogram>,
    pub response_bytes: Family<HttpLabels, Histogram>,
    pub requests_in_flight: Family<HandlerLabels, Gauge>,
    pub advertised_tags: Family<RegistryLabels, Gauge>,
    pub advertised_digests: Family<RegistryLabels, Gauge>,
    pub advertised_images: Family<RegistryLabels, Gauge>,
    pub bytes: Bytes,
    pub upstream_bytes: Family<ReasonLabels, Counter>,
    pub upstream_checks: Family<CheckLabels, Counter>,
    pub own_client_last_request: Gauge,
    pub misses: Counter,
    pub peer_failures: Family<FaultLabels, Counter>,
    pub peer_answer_seconds: Histogram,
    pub hedged: Counter,
    pub broken_bodies: Counter,
    pub damaged: Counter,
    pub outside_network_refused: Family<OutsideNetworkLabels, Counter>,
    pub tls_refused: Counter,
    pub upload_waited: Counter<f64, AtomicU64>,
    pub download_waited: Counter<f64, AtomicU64>,
    pub flights_decisions: Family<DecisionLabels, Counter>,
    pub flights_decision_seconds: Histogram,
    pub flights_source_changes: Counter,
    pub flights_requeued: Counter,
    pub flights_layers_fetched: Counter,
    pub flights_uploads_refused: Counter,
    pub flights_evictions: Counter,
    pub flights_slow_sources_left: Counter,
    pub flights_link: Gauge,
    pub flights_slow: Gauge,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_5, 2.5, 14));
        // From 1 KiB to 2 GiB.
        let bytes = || Histogram::new(exponential_buckets(1024.0, 5.0, 10));
        let metrics = Self {
            registries: Mutex::default(),
            mirror_requests: Family::default(),
            mirror_last_success: Gauge::default(),
            request_seconds: Family::new_with_constructor(seconds),
            response_bytes: Family::new_with_constructor(bytes),
            requests_in_flight: Family::default(),
            advertised_tags: Family::default(),
            advertised_digests: Family::default(),
            advertised_images: Family::default(),
            bytes: Bytes::default(),
            upstream_bytes: Family::default(),
            upstream_checks: Family::default(),
            own_client_last_request: Gauge::default(),
            misses: Counter::default(),
            peer_failures: Family::default(),
            peer_answer_seconds: seconds(),
            hedged: Counter::default(),
            broken_bodies: Counter::default(),
            damaged: Counter::default(),
            outside_network_refused: Family::default(),
            tls_refused: Counter::default(),
            upload_waited: Counter::default(),
            download_waited: Counter::default(),
            flights_decisions: Family::default(),
            flights_decision_seconds: seconds(),
            flights_source_changes: Counter::default(),
            flights_requeued: Counter::default(),
            flights_layers_fetched: Counter::default(),
            flights_uploads_refused: Counter::default(),
            flights_evictions: Counter::default(),
            flights_slow_sources_left: Counter::default(),
            flights_link: Gauge::default(),
            flights_slow: Gauge::default(),
        };
        metrics.register_spegels(registry);
        metrics.register_ours(registry);
        metrics.register_flights(registry);
        metrics
    }

    /// Counts bytes from upstream, for this reason.
    pub fn count_upstream(&self, reason: UpstreamReason, bytes: u64) {
        self.bytes.upstream.inc_by(bytes);
        let reason = reason.as_str();
        self.upstream_bytes
            .get_or_create(&ReasonLabels { reason })
            .inc_by(bytes);
    }

    pub fn count_check(&self, answer: &'static str) {
        let labels = CheckLabels { answer };
        self.upstream_checks.get_or_create(&labels).inc();
    }

    pub fn count_outside_network(&self, reason: &'static str) {
        let labels = OutsideNetworkLabels { reason };
        self.outside_network_refused.get_or_create(&labels).inc();
    }

    pub fn count_decision(&self, decision: &'static str) {
        let labels = DecisionLabels { outcome: decision };
        self.flights_decisions.get_or_create(&labels).inc();
    }

    /// The label of a registry: the name of the first [`MAX_REGISTRIES`] that this node's own client names, `other` for
    /// the rest. Other clients may name any registry, so they add none.
    pub fn registry_label(&self, registry: Option<&oci::Registry>, caller: Caller) -> String {
        let Some(registry) = registry else {
            return String::new();
        };
        let mut known = self.registries.lock();
        if !known.contains(registry) {
            if known.len() >= MAX_REGISTRIES || caller != Caller::Own {
                return "other".into();
            }
            known.insert(registry.clone());
        }
        registry.to_string()
    }

    /// Sets a gauge to the present time.
    pub fn stamp(gauge: &Gauge) {
        if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
            gauge.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        }
    }

    pub fn peer_failed(&self, fault: Fault) {
        let fault = match fault {
            Fault::Failed => "failed",
            Fault::Broke => "broke",
            Fault::Lacking => "lacking",
            Fault::Busy => "busy",
            Fault::Wrong => "wrong",
        };
        self.peer_failures
            .get_or_create(&FaultLabels { fault })
            .inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nodes_own_client_adds_registries() {
        let metrics = Metrics::register(&mut Registry::default());
        let label = |n: usize, caller| {
            let registry = format!("r{n}.example").parse().expect("a registry");
            metrics.registry_label(Some(&registry), caller)
        };
        for n in 0..2 * MAX_REGISTRIES {
            assert_eq!(label(n, Caller::Remote), "other");
        }
        assert_eq!(label(0, Caller::Own), "r0.example");
        assert_eq!(label(0, Caller::Remote), "r0.example");
        for n in 1..MAX_REGISTRIES {
            assert_eq!(label(n, Caller::Own), format!("r{n}.example"));
        }
        assert_eq!(label(MAX_REGISTRIES, Caller::Own), "other");
        assert_eq!(metrics.registry_label(None, Caller::Remote), "");
    }
}
