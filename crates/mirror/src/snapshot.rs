//! The state of the mirror, in plain values that can be serialised, for a page, a status command and a doctor.
//!
//! Times are in milliseconds since 1970, rates in bytes per second. Unknown values are `None`.

mod peers;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci::{Digest, Origin};
use serde::Serialize;
use tokio::sync::watch;

use crate::UpstreamReason;
use crate::activity::{BytesBySource, FinishedPull, PullActivity, PullSource};
use crate::mirror::Mirror;

pub use crate::measured::MeasuredObject;

/// The state of a mirror at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    pub at_ms: u64,
    pub started_ms: u64,
    /// The totals since the start.
    pub totals: Totals,
    /// The running pulls of this node's own clients, the latest first.
    pub running: Vec<RunningPull>,
    /// Their last 64 finished pulls, the last one first.
    pub finished: Vec<EndedPull>,
    /// The objects that clients of this node have measured lately (`peili pull`), the last one first.
    pub measured: Vec<MeasuredObject>,
    /// The number of peers that the router knows.
    pub peer_count: usize,
    /// Why there are none, if looking for them has failed.
    pub why_no_peers: Option<String>,
    /// The addresses of nodes without a network key in common with this one, as far as it met them lately.
    pub refused_nodes: Vec<IpAddr>,
    /// The peers that the router knows, then others to which this node has sent requests or bytes.
    pub peers: Vec<Peer>,
}

/// The bytes of content, by source or destination.
#[derive(Clone, Debug, Serialize)]
pub struct Totals {
    /// The bytes served from this node's store.
    pub from_store: u64,
    /// The bytes served to followers while this node still received them.
    pub to_followers: u64,
    pub from_peers: u64,
    /// The bytes from upstream, by the reason why no peer sent them.
    pub from_upstream: BTreeMap<UpstreamReason, u64>,
    /// The bytes sent to peers.
    pub sent: u64,
    /// The additional time that pulls would have taken without peers. `None`: the rate of upstream was not measured
    /// yet.
    pub saved_ms: Option<u64>,
}

/// A running pull.
#[derive(Clone, Debug, Serialize)]
pub struct RunningPull {
    #[serde(flatten)]
    pub object: Object,
    pub offset: u64,
    pub bytes_per_second: u64,
    pub source: Source,
    /// The number of nodes that receive it from this one meanwhile.
    pub followers: usize,
}

/// A finished pull.
#[derive(Clone, Debug, Serialize)]
pub struct EndedPull {
    #[serde(flatten)]
    pub object: Object,
    /// The source of its last bytes.
    pub source: Source,
    pub took_ms: u64,
    /// Whether the object is known to be complete.
    pub is_complete: bool,
}

/// The pulled object, and its bytes by source.
#[derive(Clone, Debug, Serialize)]
pub struct Object {
    pub registry: Option<String>,
    pub repository: Option<String>,
    /// The requested tag or digest.
    pub reference: String,
    pub digest: String,
    pub size: Option<u64>,
    pub started_ms: u64,
    pub from_store: u64,
    pub from_peers: u64,
    /// The bytes from upstream, by the reason why no peer sent them. What containerd itself gets there is known once
    /// the object is complete.
    pub from_upstream: BTreeMap<UpstreamReason, u64>,
}

/// The present source of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Source {
    Unknown,
    Local,
    Peer {
        node: String,
        addresses: Vec<SocketAddr>,
    },
    /// `leads`: for all nodes; otherwise the reason why no peer sends it.
    Upstream {
        reason: UpstreamReason,
    },
}

/// The state of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    Member,
    Suspected,
    Legacy,
    /// The router does not know it, or no longer does.
    Unknown,
}

/// A peer, as this node has seen it.
#[derive(Clone, Debug, Serialize)]
pub struct Peer {
    /// `None`: it has sent requests to this node, but never got one.
    pub node: Option<String>,
    /// The name of its node and the version of its mirror, as it reports them.
    pub name: Option<String>,
    pub version: Option<String>,
    pub state: PeerState,
    /// The number of announced objects that it lacked lately.
    pub lacked: u32,
    pub addresses: Vec<SocketAddr>,
    /// It gets no requests before this time. `None`: it may get them.
    pub back_off_until_ms: Option<u64>,
    pub last_error: Option<PeerError>,
    pub requests: u32,
    pub latency_ms: u64,
    pub bytes_per_second: u64,
    pub received: u64,
    /// The bytes sent to its address. `None`: another peer has the same address.
    pub sent: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerError {
    pub what: String,
    pub at_ms: u64,
}

impl Mirror {
    /// The present state of this mirror. Costs nothing until it is called.
    pub async fn snapshot(&self) -> Snapshot {
        let router = self.router.list_peers().await.unwrap_or_default();
        Snapshot {
            peer_count: router.count,
            why_no_peers: router.why_none,
            refused_nodes: router.refused_nodes,
            peers: self.known_peers(router.listed),
            ..self.own_snapshot()
        }
    }

    /// The same without peers.
    pub(crate) fn own_snapshot(&self) -> Snapshot {
        let followers = self.followers();
        let running = self.activities.running();
        let finished = self.activities.finished();
        Snapshot {
            at_ms: millis(SystemTime::now()),
            started_ms: millis(self.started_at),
            totals: self.totals(),
            running: running
                .iter()
                .map(|pull| RunningPull::of(pull, &followers))
                .collect(),
            finished: finished.iter().map(EndedPull::of).collect(),
            measured: self.activities.measurements(),
            peer_count: 0,
            why_no_peers: None,
            refused_nodes: Vec::new(),
            peers: Vec::new(),
        }
    }

    /// A number that changes when a snapshot shows another pull, source or state of a peer; not with each byte.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn totals(&self) -> Totals {
        let (bytes, by_reason) = (&self.metrics.bytes, &self.metrics.upstream_bytes);
        let of = |reason: UpstreamReason| {
            let labels = crate::metrics::ReasonLabels {
                reason: reason.as_str(),
            };
            by_reason.get(&labels).map(|count| (reason, count.get()))
        };
        Totals {
            from_store: bytes.local.get(),
            to_followers: bytes.growing.get(),
            from_peers: bytes.peer.get(),
            from_upstream: UpstreamReason::ALL.into_iter().filter_map(of).collect(),
            sent: self.peers.sent().iter().map(|(_, bytes)| bytes).sum(),
            saved_ms: self.activities.saved.total().map(in_millis),
        }
    }

    fn followers(&self) -> HashMap<Digest, usize> {
        let flight = self.flight.as_ref();
        flight.map_or_else(HashMap::new, |flight| flight.followers())
    }
}

impl RunningPull {
    fn of(pull: &PullActivity, followers: &HashMap<Digest, usize>) -> Self {
        Self {
            object: Object::of(pull),
            offset: pull.offset(),
            bytes_per_second: pull.throughput.rate(),
            source: pull.source().into(),
            followers: followers.get(&pull.digest).copied().unwrap_or_default(),
        }
    }
}

impl EndedPull {
    fn of(ended: &FinishedPull) -> Self {
        Self {
            object: Object::of(&ended.pull),
            source: ended.pull.source().into(),
            took_ms: in_millis(ended.took),
            is_complete: ended.is_complete,
        }
    }
}

impl Object {
    fn of(pull: &PullActivity) -> Self {
        let origin = pull.origin.as_ref();
        let BytesBySource {
            local,
            peers,
            upstream,
        } = &pull.bytes;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let upstream = UpstreamReason::ALL.into_iter().zip(upstream.iter().map(of));
        Self {
            registry: origin.map(|origin: &Origin| origin.registry.to_string()),
            repository: origin.map(|origin| origin.repository.to_string()),
            reference: pull.reference.to_string(),
            digest: pull.digest.to_string(),
            size: pull.size(),
            started_ms: millis(pull.started_at),
            from_store: of(local),
            from_peers: of(peers),
            from_upstream: upstream.filter(|(_, bytes)| *bytes > 0).collect(),
        }
    }
}

impl From<PullSource> for Source {
    fn from(source: PullSource) -> Self {
        match source {
            PullSource::Unknown => Self::Unknown,
            PullSource::Local => Self::Local,
            PullSource::Peer(candidate) => Self::Peer {
                node: candidate.peer.to_string(),
                addresses: candidate.addresses.to_vec(),
            },
            PullSource::Upstream(reason) => Self::Upstream { reason },
        }
    }
}

pub(crate) fn millis(at: SystemTime) -> u64 {
    in_millis(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn in_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
