//! Addresses: as libp2p writes them, as sockets, and which peer each belongs to.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use lru::LruCache;
use parking_lot::{Mutex, RwLock};

use crate::proven::Proven;

use crate::agent::Agent;

/// The most peers whose addresses are remembered. Those heard from longest ago are forgotten first.
const MAX_PEERS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// The most addresses kept of one peer.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// What a multiaddress of a peer points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/ip4/10.0.0.1/tcp/5001`: libp2p.
    Router(SocketAddr),
    /// `/ip4/10.0.0.1/tcp/5000/http`: the registry. A Peili node announces it in addition to its libp2p address, so
    /// every provider record contains it: a reader that has never met the holder knows the port, even if several nodes
    /// share an address or use different ports. libp2p nodes cannot dial it and ignore it, and Spegel takes the IP
    /// address, which it has anyway.
    Registry(SocketAddr),
}

impl Endpoint {
    /// Parses an address. `None`: this node cannot use it (other transports, names, relays).
    pub(crate) fn parse(address: &Multiaddr) -> Option<Self> {
        let mut parts = address
            .iter()
            .filter(|part| !matches!(part, Protocol::P2p(_)));
        let ip: IpAddr = match parts.next()? {
            Protocol::Ip4(ip) => ip.into(),
            Protocol::Ip6(ip) => ip.into(),
            _ => return None,
        };
        let Protocol::Tcp(port) = parts.next()? else {
            return None;
        };
        let socket = SocketAddr::new(ip, port);
        match (parts.next(), parts.next()) {
            (None, _) => Some(Self::Router(socket)),
            (Some(Protocol::Http), None) => Some(Self::Registry(socket)),
            _ => None,
        }
    }

    pub(crate) fn socket(&self) -> SocketAddr {
        let (Self::Router(socket) | Self::Registry(socket)) = self;
        *socket
    }

    /// The peer that an address names.
    pub(crate) fn peer(address: &Multiaddr) -> Option<PeerId> {
        address.iter().find_map(|part| match part {
            Protocol::P2p(peer) => Some(peer),
            _ => None,
        })
    }

    pub(crate) fn router(address: &Multiaddr) -> Option<SocketAddr> {
        match Self::parse(address)? {
            Self::Router(socket) => Some(socket),
            Self::Registry(_) => None,
        }
    }
}

impl From<Endpoint> for Multiaddr {
    fn from(endpoint: Endpoint) -> Self {
        let socket = endpoint.socket();
        let address = Self::from(socket.ip()).with(Protocol::Tcp(socket.port()));
        match endpoint {
            Endpoint::Router(_) => address,
            Endpoint::Registry(_) => address.with(Protocol::Http),
        }
    }
}

/// Which addresses this node and its peers can use.
#[derive(Clone, Debug)]
pub(crate) struct AddressFilter {
    /// The node and its peers listen on loopback only (a demonstration, a test): loopback addresses count.
    pub(crate) loopback: bool,
    /// The sockets of this node. Hosts share addresses (that of a bridge such as docker0), so a peer may in good faith
    /// announce one that leads back here.
    own: Arc<RwLock<HashSet<SocketAddr>>>,
    /// Where peers were proven to be.
    pub(crate) proven: Arc<Mutex<Proven>>,
}

impl AddressFilter {
    pub(crate) fn new(loopback: bool) -> Self {
        Self {
            loopback,
            own: Arc::default(),
            proven: Arc::default(),
        }
    }

    /// Whether an address of this node may be announced to peers. A link-local address means something else to each of
    /// them.
    pub(crate) fn tells(&self, socket: &SocketAddr) -> bool {
        let ip = socket.ip().to_canonical();
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        socket.port() != 0
            && !ip.is_unspecified()
            && !ip.is_multicast()
            && !link_local
            && ip.is_loopback() == self.loopback
    }

    /// Whether an address that a peer announced may be tried.
    pub(crate) fn admits(&self, socket: &SocketAddr) -> bool {
        self.tells(socket) && !self.is_own(socket)
    }

    pub(crate) fn is_own(&self, socket: &SocketAddr) -> bool {
        self.own.read().contains(socket)
    }

    pub(crate) fn add_own(&self, socket: SocketAddr) {
        self.own.write().insert(socket);
    }

    pub(crate) fn remove_own(&self, socket: &SocketAddr) {
        self.own.write().remove(socket);
    }
}

/// The known sockets of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sockets {
    pub(crate) router: Vec<SocketAddr>,
    pub(crate) registry: Vec<SocketAddr>,
}

impl Sockets {
    /// Selects the announced addresses that may be tried.
    pub(crate) fn of<'a>(
        filter: &AddressFilter,
        addresses: impl IntoIterator<Item = &'a Multiaddr>,
    ) -> Self {
        let mut sockets = Self::default();
        for endpoint in addresses.into_iter().filter_map(Endpoint::parse) {
            let (list, socket) = match endpoint {
                Endpoint::Router(socket) => (&mut sockets.router, socket),
                Endpoint::Registry(socket) => (&mut sockets.registry, socket),
            };
            if list.len() < MAX_ADDRESSES && filter.admits(&socket) && !list.contains(&socket) {
                list.push(socket);
            }
        }
        sockets
    }
}

/// The software of a peer, as it reports it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Software {
    /// It takes part in flights.
    pub(crate) flights: bool,
    pub(crate) kademlia: bool,
    /// Its name and version. Without a version it is another program.
    pub(crate) agent: Agent,
}

impl Software {
    /// Whether it finds content by provider records only.
    pub(crate) fn is_legacy(&self) -> bool {
        self.kademlia && !self.flights
    }
}

/// What is known of a peer besides its id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// What the peer reports about itself.
    pub(crate) told: Sockets,
    /// Where it was reached.
    reached: Option<SocketAddr>,
    pub(crate) software: Software,
}

impl Known {
    /// The libp2p addresses, the most certain first.
    pub(crate) fn routers(&self) -> Vec<SocketAddr> {
        let mut routers: Vec<_> = self.reached.into_iter().collect();
        routers.extend(&self.told.router);
        dedup(routers)
    }

    /// The registry addresses: those that the peer reported; otherwise Spegel's rule: its addresses with this node's
    /// own port.
    pub(crate) fn registries(&self, filter: &AddressFilter, own_port: u16) -> Vec<SocketAddr> {
        let port = self
            .told
            .registry
            .first()
            .map_or(own_port, SocketAddr::port);
        let reached = self.reached.map(|socket| (socket.ip(), port).into());
        let mut registries: Vec<SocketAddr> = reached.into_iter().collect();
        if self.told.registry.is_empty() {
            let routers = self.told.router.iter();
            registries.extend(routers.map(|socket| SocketAddr::new(socket.ip(), port)));
        } else {
            registries.extend(&self.told.registry);
        }
        registries.retain(|socket| filter.admits(socket));
        dedup(registries)
    }
}

fn dedup(sockets: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = HashSet::new();
    let mut sockets = sockets;
    sockets.retain(|socket| seen.insert(*socket));
    sockets
}

/// The addresses of the peers met so far.
#[derive(Debug)]
pub(crate) struct AddressBook(LruCache<PeerId, Known>);

impl Default for AddressBook {
    fn default() -> Self {
        Self(LruCache::new(MAX_PEERS))
    }
}

impl AddressBook {
    /// Replaces what the peer reported about itself before.
    pub(crate) fn introduced(&mut self, peer: PeerId, told: Sockets, software: Software) {
        let known = self.0.get_or_insert_mut(peer, Known::default);
        (known.told, known.software) = (told, software);
    }

    pub(crate) fn reached(&mut self, peer: PeerId, socket: SocketAddr) {
        let known = self.0.get_or_insert_mut(peer, Known::default);
        known.reached = Some(socket);
    }

    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Known> {
        self.0.peek(peer)
    }

    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.0.pop(peer);
    }

    /// The peer with this libp2p address.
    pub(crate) fn owner(&self, socket: &SocketAddr) -> Option<PeerId> {
        let mut peers = self.0.iter();
        let known = peers.find(|(_, known)| known.routers().contains(socket));
        known.map(|(peer, _)| *peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "12D3KooWAsvvigG9jqjMNWMmqXph6BvszxTus6Fg6k5UZda2iKDB";

    fn socket(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn multiaddr(text: &str) -> Multiaddr {
        text.parse().expect("a multiaddress")
    }

    fn telling(filter: &AddressFilter, told: &[Multiaddr]) -> Known {
        Known {
            told: Sockets::of(filter, told),
            ..Known::default()
        }
    }

    #[test]
    fn endpoints_in_both_directions() {
        let with_id = multiaddr(&format!("/ip6/fd00::1/tcp/5000/http/p2p/{ID}"));
        let registry = Endpoint::Registry(socket("[fd00::1]:5000"));
        assert_eq!(Endpoint::parse(&with_id), Some(registry));
        assert_eq!(Endpoint::parse(&registry.into()), Some(registry));
        let router = Endpoint::Router(socket("10.0.0.1:5001"));
        assert_eq!(Endpoint::parse(&router.into()), Some(router));
        for other in [
            "/ip4/10.0.0.1/udp/5001/quic-v1",
            "/dns4/host/tcp/5001",
            "/ip4/10.0.0.1",
            "/ip4/10.0.0.1/tcp/5001/ws",
            "/ip4/10.0.0.1/tcp/5001/http/http",
        ] {
            assert_eq!(Endpoint::parse(&multiaddr(other)), None, "{other}");
        }
    }

    #[test]
    fn loopback_counts_among_loopback_nodes_only() {
        let told = ["/ip4/127.0.0.1/tcp/5001", "/ip4/10.0.0.1/tcp/5001"].map(multiaddr);
        let wide = Sockets::of(&AddressFilter::new(false), &told);
        assert_eq!(wide.router, [socket("10.0.0.1:5001")]);
        let local = Sockets::of(&AddressFilter::new(true), &told);
        assert_eq!(local.router, [socket("127.0.0.1:5001")]);
    }

    #[test]
    fn never_leads_back_to_ourselves() {
        let filter = AddressFilter::new(false);
        for own in ["172.17.0.1:5001", "172.17.0.1:5000"] {
            filter.add_own(socket(own));
        }
        let told = ["/ip4/172.17.0.1/tcp/5001", "/ip4/10.0.0.2/tcp/5001"].map(multiaddr);
        let known = telling(&filter, &told);
        assert_eq!(known.registries(&filter, 5000), [socket("10.0.0.2:5000")]);
        // Another node on this host, with another port.
        let told = ["/ip4/172.17.0.1/tcp/5011", "/ip4/172.17.0.1/tcp/5010/http"].map(multiaddr);
        let known = telling(&filter, &told);
        assert_eq!(known.registries(&filter, 5000), [socket("172.17.0.1:5010")]);
    }
}
