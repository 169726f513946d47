//! Names and descriptions of the metrics. `docs/metrics.md` is made from them.

use prometheus_client::registry::Registry;

use super::Metrics;

impl Metrics {
    pub(super) fn register_spegels(&self, registry: &mut Registry) {
        registry.register(
            "spegel_mirror_requests",
            "Requests that this node's content could not answer, by whether a peer could",
            self.mirror_requests.clone(),
        );
        registry.register(
            "spegel_mirror_last_success_timestamp_seconds",
            "When a peer last answered such a request, in seconds since 1970",
            self.mirror_last_success.clone(),
        );
        registry.register(
            "spegel_advertised_image_tags",
            "Tags that are announced to peers",
            self.advertised_tags.clone(),
        );
        registry.register(
            "spegel_advertised_image_digests",
            "Digests of tagged images that are announced to peers",
            self.advertised_images.clone(),
        );
        registry.register(
            "spegel_advertised_content_digests",
            "Digests that are announced to peers",
            self.advertised_digests.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "Time from a request to the last byte of its answer",
            self.request_seconds.clone(),
        );
        registry.register(
            "http_response_size_bytes",
            "Bytes of answers' bodies that were sent",
            self.response_bytes.clone(),
        );
        registry.register(
            "http_requests_inflight",
            "Requests being answered",
            self.requests_in_flight.clone(),
        );
    }

    pub(super) fn register_ours(&self, registry: &mut Registry) {
        registry.register(
            "peili_bytes",
            "Bytes of content by source: local (served from this node's content), growing (served to peers while this node still \
             receives them), peer (received from peers), upstream (received from the registry, by containerd or the embedded store)",
            self.bytes.family.clone(),
        );
        registry.register(
            "peili_upstream_bytes",
            "Bytes received from the registry, by reason: no_peer, peers_failed, leads (for all nodes), alone (waiting for others would have \
             taken too long), filtered, private, tag_check, busy, other",
            self.upstream_bytes.clone(),
        );
        registry.register(
            "peili_upstream_checks",
            "Checks of tags and visibility upstream, by answer: granted, refused (to an anonymous client), not_found, failed (429, \
             5xx), slow, unreachable",
            self.upstream_checks.clone(),
        );
        registry.register(
            "peili_own_client_last_request_timestamp_seconds",
            "When this node's own containerd or client last asked this mirror for content, in seconds since 1970",
            self.own_client_last_request.clone(),
        );
        registry.register(
            "peili_misses",
            "Requests for content that ended with the client being sent elsewhere",
            self.misses.clone(),
        );
        registry.register(
            "peili_peer_failures",
            "Failed answers of peers: failed (no connection, no answer), broke (in the middle of a body), lacking (not what \
             it announced), busy (it serves as many as it may), wrong (bytes that are not what was asked for)",
            self.peer_failures.clone(),
        );
        registry.register(
            "peili_peer_answer_seconds",
            "Time from asking a peer to the head of its answer",
            self.peer_answer_seconds.clone(),
        );
        registry.register(
            "peili_hedged_requests",
            "Requests to a further peer because the one before was slow",
            self.hedged.clone(),
        );
        registry.register(
            "peili_broken_bodies",
            "Times that a peer's body broke, stalled or was too slow, and another peer had to continue it",
            self.broken_bodies.clone(),
        );
        registry.register(
            "peili_damaged_objects",
            "Objects of this node's store whose bytes do not match their digest; they are no longer served",
            self.damaged.clone(),
        );
        registry.register(
            "peili_outside_network_refused",
            "Requests that were refused because they came from no node of the network, by why: without the proof of the network \
             key (missing), with that of another one (wrong_key), from a node whose clock differs by more than 5 minutes \
             (clock), or without TLS (no_certificate)",
            self.outside_network_refused.clone(),
        );
        registry.register(
            "peili_peer_tls_connections_refused",
            "TLS connections to the registry port that were refused: the client has no certificate of the authorities in \
             --peer-tls-dir, an expired one, or does not trust this node's",
            self.tls_refused.clone(),
        );
        registry.register(
            "peili_upload_rate_wait_seconds",
            "Time that uploads to other nodes have waited because of --upload-rate, all streams together",
            self.upload_waited.clone(),
        );
        registry.register(
            "peili_download_rate_wait_seconds",
            "Time that downloads from other nodes have waited because of --download-rate, all streams together",
            self.download_waited.clone(),
        );
    }

    pub(super) fn register_flights(&self, registry: &mut Registry) {
        registry.register(
            "peili_flights_decisions",
            "Requests for a source, by decision: follow (pull from a peer), lead (pull from upstream for the cluster), alone (pull from \
             upstream for this node only), later (end the request; containerd retries)",
            self.flights_decisions.clone(),
        );
        registry.register(
            "peili_flights_decision_seconds",
            "Time from a request for a source to its decision",
            self.flights_decision_seconds.clone(),
        );
        registry.register(
            "peili_flights_source_changes",
            "Requests for another source, after a source refused or failed",
            self.flights_source_changes.clone(),
        );
        registry.register(
            "peili_flights_requeued",
            "Requests ended without a byte, so that containerd requeues them and starts another download of this node",
            self.flights_requeued.clone(),
        );
        registry.register(
            "peili_flights_layers_fetched",
            "Layers that this mirror fetched from upstream itself, as containerd would have queued them again",
            self.flights_layers_fetched.clone(),
        );
        registry.register(
            "peili_flights_uploads_refused",
            "Followers refused because this node already serves the maximum number of uploads",
            self.flights_uploads_refused.clone(),
        );
        registry.register(
            "peili_flights_evictions",
            "Times that this node sent its followers to other sources, because its link was slow or upstream sent it little",
            self.flights_evictions.clone(),
        );
        registry.register(
            "peili_flights_slow_sources_left",
            "Times that this node left a source that sent far less than the source had",
            self.flights_slow_sources_left.clone(),
        );
        registry.register(
            "peili_flights_link_bytes_per_second",
            "Bandwidth of this node in bytes per second, as the last test against other nodes showed it: 0 until tested, 60000000 at most",
            self.flights_link.clone(),
        );
        registry.register(
            "peili_flights_slow",
            "1 while this node counts as slow: other nodes then avoid it as source and as leader; otherwise 0",
            self.flights_slow.clone(),
        );
    }
}
