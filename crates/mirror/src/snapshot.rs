//! How the mirror is, in plain values that can be serialised: what a page, a status command and a doctor show.
//!
//! Times are in milliseconds since 1970, rates in bytes per second. What is not known is `None`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci::{Digest, Origin};
use serde::Serialize;
use tokio::sync::watch;

use crate::activity::{BytesBySource, FinishedPull, PullActivity, PullSource};
use crate::mirror::Mirror;
use crate::peers::KnownPeer;
use crate::upstream_reasons::REASONS;
use crate::{PeerStanding, RouterPeer};

pub use crate::measured::MeasuredObject;

/// The most peers that a snapshot lists, those used latest first.
const MAX_PEERS: usize = 1024;

/// A mirror at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    pub at_ms: u64,
    pub started_ms: u64,
    /// Since the start.
    pub totals: Totals,
    /// The pulls of this node's own clients that are on their way, the latest first.
    pub running: Vec<RunningPull>,
    /// The last 64 of them that have ended, the last one first.
    pub finished: Vec<EndedPull>,
    /// The objects that clients of this node have measured lately (`peili pull`), the last one first.
    pub measured: Vec<MeasuredObject>,
    /// How many peers the router knows.
    pub peer_count: usize,
    /// Why there are none, where something went wrong when they were looked for.
    pub why_no_peers: Option<String>,
    /// Where nodes are that have no network key in common with this one, as far as it met them lately.
    pub strangers: Vec<IpAddr>,
    /// The peers that the router knows, then others that this node has asked, or has sent bytes to.
    pub peers: Vec<Peer>,
}

/// Bytes of content by where they came from or went to.
#[derive(Clone, Debug, Serialize)]
pub struct Totals {
    /// Served from this node's store.
    pub from_store: u64,
    /// Served to followers while this node still received them.
    pub to_followers: u64,
    pub from_peers: u64,
    /// By the reason why no peer gave them.
    pub from_upstream: BTreeMap<&'static str, u64>,
    /// Sent to peers.
    pub sent: u64,
    /// What pulls would have taken longer without peers. `None` while the rate of upstream is not measured.
    pub saved_ms: Option<u64>,
}

/// A pull that is on its way.
#[derive(Clone, Debug, Serialize)]
pub struct RunningPull {
    #[serde(flatten)]
    pub object: Object,
    pub offset: u64,
    pub bytes_per_second: u64,
    pub source: Source,
    /// Nodes that receive it from this one meanwhile.
    pub followers: usize,
}

/// A pull that has ended.
#[derive(Clone, Debug, Serialize)]
pub struct EndedPull {
    #[serde(flatten)]
    pub object: Object,
    /// Where the last of it came from.
    pub source: Source,
    pub took_ms: u64,
    /// Whether all bytes are known to have come.
    pub is_complete: bool,
}

/// What is pulled, and what has come of it by source.
#[derive(Clone, Debug, Serialize)]
pub struct Object {
    pub registry: Option<String>,
    pub repository: Option<String>,
    /// The tag or digest that was asked for.
    pub reference: String,
    pub digest: String,
    pub size: Option<u64>,
    pub started_ms: u64,
    pub from_store: u64,
    pub from_peers: u64,
    /// By the reason why no peer gave them. What containerd gets there by itself is known once it is complete.
    pub from_upstream: BTreeMap<&'static str, u64>,
}

/// Where bytes come from now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Source {
    Unknown,
    Local,
    Peer {
        node: String,
        addresses: Vec<SocketAddr>,
    },
    /// `leads`: for all nodes; otherwise why no peer gives it.
    Upstream {
        reason: &'static str,
    },
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    Member,
    Suspected,
    Legacy,
    /// The router does not know it, or no longer.
    Unknown,
}

/// A peer as this node has found it.
#[derive(Clone, Debug, Serialize)]
pub struct Peer {
    /// `None`: it asked this node, and was never asked.
    pub node: Option<String>,
    /// The name of its node and the version of its mirror, as it says itself.
    pub name: Option<String>,
    pub version: Option<String>,
    pub state: PeerState,
    /// Announced objects that it lacked lately.
    pub lacked: u32,
    pub addresses: Vec<SocketAddr>,
    /// It is not asked before this time. `None`: it may be.
    pub back_off_until_ms: Option<u64>,
    pub last_error: Option<PeerError>,
    pub requests: u32,
    pub latency_ms: u64,
    pub bytes_per_second: u64,
    pub received: u64,
    /// By its address. `None`: another peer has the same one.
    pub sent: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerError {
    pub what: String,
    pub at_ms: u64,
}

impl Mirror {
    /// How this mirror is now. Costs nothing until it is called.
    pub async fn snapshot(&self) -> Snapshot {
        let router = self.router.list_peers().await.unwrap_or_default();
        Snapshot {
            peer_count: router.count,
            why_no_peers: router.why_none,
            strangers: router.strangers,
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
            strangers: Vec::new(),
            peers: Vec::new(),
        }
    }

    /// A number that changes when a snapshot shows another pull, source or state of a peer; not with each byte.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn totals(&self) -> Totals {
        let (bytes, by_reason) = (&self.metrics.bytes, &self.metrics.upstream_bytes);
        let of = |reason| {
            let labels = crate::metrics::ReasonLabels { reason };
            by_reason.get(&labels).map(|count| (reason, count.get()))
        };
        Totals {
            from_store: bytes.local.get(),
            to_followers: bytes.growing.get(),
            from_peers: bytes.peer.get(),
            from_upstream: REASONS.into_iter().filter_map(of).collect(),
            sent: self.peers.sent().iter().map(|(_, bytes)| bytes).sum(),
            saved_ms: self.activities.saved.total().map(in_millis),
        }
    }

    fn followers(&self) -> HashMap<Digest, usize> {
        let flight = self.flight.as_ref();
        flight.map_or_else(HashMap::new, |flight| flight.followers())
    }

    /// The router's peers with what this node has seen of them, then those that only this node has seen.
    fn known_peers(&self, router: Vec<RouterPeer>) -> Vec<Peer> {
        let mut sent: HashMap<IpAddr, u64> = self.peers.sent().into_iter().collect();
        let known = self.peers.known(MAX_PEERS).into_iter();
        let mut known: HashMap<_, _> = known.map(|peer| (peer.peer.clone(), peer)).collect();
        let of_router = router.into_iter().map(|peer| {
            let seen = known.remove(&peer.peer);
            Peer::of_router(peer, seen.as_ref(), &sent)
        });
        let mut peers: Vec<_> = of_router.collect();
        let mut others: Vec<_> = known.values().map(|seen| Peer::seen(seen, &sent)).collect();
        others.retain(|peer| peer.received > 0 || peer.last_error.is_some());
        others.sort_by_key(|peer| Reverse(peer.received));
        peers.append(&mut others);
        tell_apart(&mut peers);
        for address in peers.iter().flat_map(|peer| &peer.addresses) {
            sent.remove(&address.ip().to_canonical());
        }
        peers.extend(sent.into_iter().map(|(ip, sent)| Peer {
            addresses: vec![SocketAddr::new(ip, 0)],
            sent: Some(sent),
            ..Peer::unseen()
        }));
        peers.truncate(MAX_PEERS);
        peers
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
        let upstream = REASONS.into_iter().zip(upstream.iter().map(of));
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

impl Peer {
    fn unseen() -> Self {
        Self {
            node: None,
            name: None,
            version: None,
            state: PeerState::Unknown,
            lacked: 0,
            addresses: Vec::new(),
            back_off_until_ms: None,
            last_error: None,
            requests: 0,
            latency_ms: 0,
            bytes_per_second: 0,
            received: 0,
            sent: None,
        }
    }

    fn of_router(peer: RouterPeer, seen: Option<&KnownPeer>, sent: &HashMap<IpAddr, u64>) -> Self {
        let seen = seen.map_or_else(Self::unseen, |seen| Self::seen(seen, sent));
        Self {
            node: Some(peer.peer.to_string()),
            name: peer.name,
            version: peer.version,
            state: match peer.standing {
                PeerStanding::Member => PeerState::Member,
                PeerStanding::Suspected => PeerState::Suspected,
                PeerStanding::Legacy => PeerState::Legacy,
            },
            sent: Some(sent_to(&peer.addresses, sent)),
            addresses: peer.addresses.to_vec(),
            ..seen
        }
    }

    fn seen(known: &KnownPeer, sent: &HashMap<IpAddr, u64>) -> Self {
        let left = known.backed_off_for.map(|left| SystemTime::now() + left);
        let last_error = known.last_error.clone();
        Self {
            node: Some(known.peer.to_string()),
            lacked: known.lacked,
            addresses: known.addresses.to_vec(),
            back_off_until_ms: left.map(millis),
            last_error: last_error.map(|(what, at)| PeerError {
                what,
                at_ms: millis(at),
            }),
            requests: known.requests,
            latency_ms: in_millis(known.latency),
            bytes_per_second: known.bytes_per_second,
            received: known.received,
            sent: Some(sent_to(&known.addresses, sent)),
            ..Self::unseen()
        }
    }
}

/// Leaves out what was sent to an address that several peers have: behind one NAT, or on one host.
fn tell_apart(peers: &mut [Peer]) {
    let ips = |peer: &Peer| -> HashSet<IpAddr> {
        let addresses = peer.addresses.iter();
        addresses.map(|a| a.ip().to_canonical()).collect()
    };
    let mut having: HashMap<IpAddr, usize> = HashMap::new();
    for ip in peers.iter().flat_map(ips) {
        *having.entry(ip).or_default() += 1;
    }
    for peer in peers {
        if ips(peer).iter().any(|ip| having[ip] > 1) {
            peer.sent = None;
        }
    }
}

/// What was sent to a peer with these addresses.
fn sent_to(addresses: &[SocketAddr], sent: &HashMap<IpAddr, u64>) -> u64 {
    let ips = addresses.iter().map(|a| a.ip().to_canonical());
    let most = ips.filter_map(|ip| sent.get(&ip)).max();
    most.copied().unwrap_or_default()
}

pub(crate) fn millis(at: SystemTime) -> u64 {
    in_millis(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn in_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::PeerId;

    #[test]
    fn what_the_router_knows_and_what_was_exchanged_are_one_peer() {
        let addresses: Arc<[SocketAddr]> = [SocketAddr::from(([10, 0, 0, 2], 5000))].into();
        let peer = RouterPeer {
            peer: PeerId::new("a"),
            addresses: addresses.clone(),
            name: Some("node-2".into()),
            version: Some("1.0".into()),
            standing: PeerStanding::Suspected,
        };
        let sent = HashMap::from([(addresses[0].ip(), 7)]);
        let unseen = Peer::of_router(peer.clone(), None, &sent);
        assert_eq!((unseen.received, unseen.sent), (0, Some(7)));
        let seen = KnownPeer {
            peer: PeerId::new("a"),
            addresses,
            backed_off_for: Some(Duration::from_secs(1)),
            last_error: None,
            requests: 1,
            latency: Duration::ZERO,
            received: 9,
            bytes_per_second: 5,
            lacked: 2,
        };
        let shown = Peer::of_router(peer, Some(&seen), &sent);
        assert_eq!((shown.name.as_deref(), shown.received), (Some("node-2"), 9));
        assert_eq!((shown.state, shown.lacked), (PeerState::Suspected, 2));
        assert!(shown.back_off_until_ms.is_some());
    }

    #[test]
    fn of_peers_with_one_address_nobody_knows_which_was_sent_what() {
        let peer = |ip: [u8; 4]| Peer {
            addresses: vec![SocketAddr::from((ip, 5000))],
            sent: Some(7),
            ..Peer::unseen()
        };
        let mut peers = [
            peer([10, 0, 0, 2]),
            peer([10, 0, 0, 3]),
            peer([10, 0, 0, 2]),
        ];
        tell_apart(&mut peers);
        assert_eq!(peers.map(|peer| peer.sent), [None, Some(7), None]);
    }
}
