//! Tells a peer whether this node can connect to it. A node cannot see that its own firewall drops incoming
//! connections.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Router;
use crate::permits::PermitsPerSecond;

/// The limit for connecting to an address, as for content, and the number of attempts: a lost packet is no closed port.
/// The asking node waits for a second.
const LIMIT: Duration = Duration::from_millis(250);
const ATTEMPTS: usize = 2;
/// The most addresses of a peer that are tried: of its registry and its router, IPv4 and IPv6.
const MAX_ADDRESSES: usize = 4;
/// The most requests in a second for which this is tried: anybody can ask, and each request has the router list its peers.
const MAX_REQUESTS: u32 = 8;

#[derive(Debug, Default)]
pub struct DialBack(PermitsPerSecond<MAX_REQUESTS>);

impl DialBack {
    /// Connects to the known addresses at `ip` of a peer that asks from there, and to no others, so that nobody can have
    /// this node connect anywhere else. Returns those that cannot be connected to. `None`: the peer is not known to be at
    /// `ip`, or too many ask.
    pub async fn unreached(
        &self,
        router: &dyn Router,
        peer: &str,
        ip: IpAddr,
    ) -> Option<Vec<SocketAddr>> {
        if !self.0.admit() {
            return None;
        }
        let peers = router.list_peers().await?.listed;
        let known = peers
            .iter()
            .filter(|known| known.peer.as_str() == peer)
            .flat_map(|peer| peer.addresses.iter().chain(&*peer.routers));
        let of_asker = known.filter(|address| address.ip() == ip && address.port() > 0);
        let of_asker: BTreeSet<_> = of_asker.copied().collect();
        if of_asker.is_empty() {
            return None;
        }
        let dialed = of_asker
            .into_iter()
            .take(MAX_ADDRESSES)
            .map(async |address| {
                for _ in 0..ATTEMPTS {
                    if let Ok(Ok(_)) = timeout(LIMIT, TcpStream::connect(address)).await {
                        return None;
                    }
                }
                Some(address)
            });
        Some(join_all(dialed).await.into_iter().flatten().collect())
    }
}

/// The addresses of a header of [`crate::request::UNREACHED`].
pub fn parse(header: &str) -> Option<Vec<SocketAddr>> {
    let addresses = header.split(',').map(str::trim).filter(|a| !a.is_empty());
    let addresses = addresses.take(MAX_ADDRESSES).map(|a| a.parse().ok());
    addresses.collect()
}

/// The text of such a header.
pub fn header(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use oci::Key;
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::{Health, PeerId, PeerMembership, RouterPeer, RouterPeers, Search};

    struct Knows(RouterPeers);

    #[async_trait]
    impl Router for Knows {
        fn find(&self, _: &Key) -> Search {
            Search::channel().1
        }

        async fn announce(&self, _: Vec<Key>) {}

        async fn withdraw(&self, _: Vec<Key>) {}

        async fn list_peers(&self) -> Option<RouterPeers> {
            Some(self.0.clone())
        }

        fn health(&self) -> Health {
            Health::Ready
        }
    }

    #[tokio::test]
    async fn only_known_addresses_of_the_asking_peer_are_tried() {
        let listen = async |at: &str| TcpListener::bind(at).await.expect("a port");
        let (open, elsewhere) = (listen("127.0.0.1:0").await, listen("127.0.0.2:0").await);
        // Nothing listens at a socket that is only bound.
        let closed = TcpSocket::new_v4().expect("a socket");
        let loopback = ([127, 0, 0, 1], 0).into();
        closed.bind(loopback).expect("a port");
        let at = closed.local_addr().expect("an address");
        let of = |listener: &TcpListener| listener.local_addr().expect("an address");
        let peer = RouterPeer {
            peer: PeerId::new("a"),
            addresses: [of(&open), of(&elsewhere)].into(),
            routers: [at].into(),
            name: None,
            version: None,
            membership: PeerMembership::Member,
        };
        let router = Knows(RouterPeers {
            count: 1,
            listed: vec![peer],
            ..RouterPeers::default()
        });
        let dial_back = DialBack::default();
        let from = |ip: &str| ip.parse::<IpAddr>().expect("an address");
        let asks = async |peer, ip| dial_back.unreached(&router, peer, from(ip)).await;
        assert_eq!(asks("a", "127.0.0.1").await, Some(vec![at]));
        assert_eq!(asks("a", "127.0.0.3").await, None, "from elsewhere");
        assert_eq!(asks("b", "127.0.0.1").await, None, "another peer");
    }

    #[test]
    fn a_header_names_few_addresses_or_nothing_is_known() {
        let both: Vec<SocketAddr> = vec![
            ([10, 0, 0, 1], 5000).into(),
            "[::1]:5001".parse().expect("an address"),
        ];
        assert_eq!(parse(&header(&both)), Some(both));
        assert_eq!(parse(""), Some(Vec::new()));
        assert_eq!(parse("10.0.0.1:5000, nonsense"), None);
        assert_eq!(parse(&"1.1.1.1:1,".repeat(99)).map(|a| a.len()), Some(4));
    }
}
