//! The peers of a snapshot: those of the router, with this node's own statistics.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use super::{Peer, PeerError, PeerState, in_millis, millis};
use crate::mirror::Mirror;
use crate::peers::KnownPeer;
use crate::{PeerMembership, RouterPeer};

/// The most peers in a snapshot, the most recently used first.
const MAX_PEERS: usize = 1024;

impl Mirror {
    /// The router's peers with this node's statistics, then those that only this node has seen.
    pub(super) fn known_peers(&self, router: Vec<RouterPeer>) -> Vec<Peer> {
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
            state: match peer.membership {
                PeerMembership::Member => PeerState::Member,
                PeerMembership::Suspected => PeerState::Suspected,
                PeerMembership::Legacy => PeerState::Legacy,
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

/// Removes the bytes sent to an address that several peers share, behind one NAT or on one host.
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

/// The bytes sent to a peer with these addresses.
fn sent_to(addresses: &[SocketAddr], sent: &HashMap<IpAddr, u64>) -> u64 {
    let ips = addresses.iter().map(|a| a.ip().to_canonical());
    let most = ips.filter_map(|ip| sent.get(&ip)).max();
    most.copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::PeerId;

    #[test]
    fn what_the_router_knows_and_what_was_exchanged_are_one_peer() {
        let addresses: Arc<[SocketAddr]> = [SocketAddr::from(([10, 0, 0, 2], 5000))].into();
        let peer = RouterPeer {
            peer: PeerId::new("a"),
            addresses: addresses.clone(),
            routers: [].into(),
            name: Some("node-2".into()),
            version: Some("1.0".into()),
            membership: PeerMembership::Suspected,
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
