//! The metrics of the router.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The upper bounds of buckets, in seconds: from a round trip on a rack to the longest lookup.
const RESOLVE_BUCKETS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Cheap to clone: the clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// `spegel_resolve_duration_seconds{router="libp2p"}`: from the start of a lookup to its first candidate, or to its
    /// end if no peer has the key. Spegel's name and meaning.
    pub(crate) resolve_duration: Histogram,
    /// `peili_router_peers`: peers in the routing table.
    pub(crate) peers: Gauge,
    /// `peili_router_connected_peers{software}`: peers with an open connection, by whether they run `peili` or
    /// something `other`: the progress of a move from Spegel.
    pub(crate) connected_peers: Family<[(&'static str, &'static str); 1], Gauge>,
    /// `peili_router_provider_records`: records that other nodes asked this one to keep for the cluster.
    pub(crate) provider_records: Gauge,
    /// `peili_router_provider_records_dropped_total`: records dropped before they expired because there were too many.
    pub(crate) provider_records_dropped: Counter,
    /// `peili_router_announcements`: keys of this node that are announced to the cluster.
    pub(crate) announcements: Gauge,
    /// `peili_router_announcements_pending`: keys that are still to be announced, or announced again.
    pub(crate) announcements_pending: Gauge,
    /// `peili_router_announcements_published_total`: announcements sent, repeated ones included.
    pub(crate) announcements_published: Counter,
    /// `peili_router_dials_failed_total`: connections to a known peer that could not be made.
    pub(crate) dials_failed: Counter,
    /// `peili_router_dials_refused_total`: connections not attempted, because too many to the same address had not
    /// reached the peer announced there.
    pub(crate) dials_refused: Counter,
    /// `peili_router_handshakes_refused_total`: connections that failed because this node and the other end have no
    /// network key or no certificate authority in common, or one of them has none.
    pub(crate) handshakes_refused: Counter,
    /// `peili_router_keys_dropped_total`: announced keys that were not kept, or not for long, because members announced
    /// too many.
    pub(crate) keys_dropped: Counter,
    /// `peili_router_peers_lost_total`: peers dropped because a dial or a ping failed, or because they are no longer
    /// members.
    pub(crate) peers_lost: Counter,
    /// `peili_router_members`: nodes that take part in flights, this one included, as far as it knows.
    pub(crate) members: Gauge,
    /// `peili_router_pending_requests`: requests of this node for a source or a lookup that wait for an answer.
    pub(crate) pending_requests: Gauge,
    /// `peili_router_datagrams_sent_total`: messages to other members.
    pub(crate) datagrams_sent: Counter,
    /// `peili_router_datagrams_received_total`: messages from other members.
    pub(crate) datagrams_received: Counter,
    /// `peili_router_datagrams_undelivered_total`: how often messages to a member are known to be lost.
    pub(crate) datagrams_undelivered: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            resolve_duration: Histogram::new(RESOLVE_BUCKETS),
            peers: Gauge::default(),
            connected_peers: Family::default(),
            provider_records: Gauge::default(),
            provider_records_dropped: Counter::default(),
            announcements: Gauge::default(),
            announcements_pending: Gauge::default(),
            announcements_published: Counter::default(),
            dials_failed: Counter::default(),
            dials_refused: Counter::default(),
            handshakes_refused: Counter::default(),
            keys_dropped: Counter::default(),
            peers_lost: Counter::default(),
            members: Gauge::default(),
            pending_requests: Gauge::default(),
            datagrams_sent: Counter::default(),
            datagrams_received: Counter::default(),
            datagrams_undelivered: Counter::default(),
        };
        metrics.register_in(registry);
        metrics
    }

    fn register_in(&self, registry: &mut Registry) {
        registry
            .sub_registry_with_label(("router".into(), "libp2p".into()))
            .register_with_unit(
                "spegel_resolve_duration",
                "Time from the start of a lookup to its first candidate, or to its end",
                Unit::Seconds,
                self.resolve_duration.clone(),
            );
        let router = registry.sub_registry_with_prefix("peili_router");
        let gauges = [
            ("peers", "Peers in the routing table", &self.peers),
            (
                "provider_records",
                "Provider records kept for other nodes",
                &self.provider_records,
            ),
            (
                "announcements",
                "Keys announced by this node",
                &self.announcements,
            ),
            (
                "announcements_pending",
                "Keys not announced yet",
                &self.announcements_pending,
            ),
            (
                "members",
                "Nodes that take part in flights, this one included",
                &self.members,
            ),
            (
                "pending_requests",
                "Requests for a source that wait for an answer",
                &self.pending_requests,
            ),
        ];
        router.register(
            "connected_peers",
            "Peers with an open connection, by what they run",
            self.connected_peers.clone(),
        );
        for (name, help, gauge) in gauges {
            router.register(name, help, gauge.clone());
        }
        let counters = [
            (
                "provider_records_dropped",
                "Provider records dropped because there were too many",
                &self.provider_records_dropped,
            ),
            (
                "announcements_published",
                "Announcements sent, repeated ones included",
                &self.announcements_published,
            ),
            (
                "dials_failed",
                "Failed connections to known peers",
                &self.dials_failed,
            ),
            (
                "dials_refused",
                "Connections not made because others to the same address did not reach the peer said to be there",
                &self.dials_refused,
            ),
            (
                "handshakes_refused",
                "Connections refused because this node and the other end have no network key or no certificate authority in common",
                &self.handshakes_refused,
            ),
            (
                "keys_dropped",
                "Announced keys not kept because there were too many",
                &self.keys_dropped,
            ),
            (
                "peers_lost",
                "Peers dropped because a dial or ping failed, or because they left",
                &self.peers_lost,
            ),
            (
                "datagrams_sent",
                "Messages to other members",
                &self.datagrams_sent,
            ),
            (
                "datagrams_received",
                "Messages from other members",
                &self.datagrams_received,
            ),
            (
                "datagrams_undelivered",
                "Losses of messages to a member that were detected",
                &self.datagrams_undelivered,
            ),
        ];
        for (name, help, counter) in counters {
            router.register(name, help, counter.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_spegels_name() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.resolve_duration.observe(0.1);
        metrics.dials_failed.inc();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        assert!(text.contains("spegel_resolve_duration_seconds_count{router=\"libp2p\"} 1"));
        assert!(text.contains("peili_router_dials_failed_total 1"), "{text}");
    }
}
