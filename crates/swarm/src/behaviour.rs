//! The protocols of this node, and the transport beneath them.

use std::io;
use std::time::{Duration, Instant};

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{self, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{Multiaddr, PeerId, Transport, identify, noise, ping, tcp, yamux};
use network_key::Keyring;
use tls::PeerTls;

use crate::addresses::{AddressFilter, Endpoint};
use crate::agent::Agent;
use crate::datagrams;
use crate::handshake::Handshake;
use crate::kademlia;
use crate::pending;
use crate::secure::secure;

/// The name of the network in identify, as in go-libp2p.
const IDENTIFY_PROTOCOL: &str = "ipfs/0.1.0";

/// The limit of a TCP connection. A live peer of the cluster answers in a round trip.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The limit of TCP, TLS, Noise and yamux together, in both directions. It is longer because they take CPU on two nodes
/// that may be busy.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval between pings, and the wait for an answer. A peer that is silent for both together is dead.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection stays open. In a small cluster every lookup asks all nodes, so connections stay open
/// and a lookup is one round trip. In a large one, [`crate::node::connections::KEPT_CONNECTIONS`] bounds them.
pub(crate) const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// The most streams of one connection. Kademlia uses up to 32 each way, the other protocols a few together.
const MAX_STREAMS: usize = 128;
/// The most pending connections, against floods: an eighth of the established ones, but no more than this.
const MAX_PENDING_INCOMING: usize = 256;
const MAX_CONNECTIONS_PER_PEER: u32 = 4;

/// The protocols: Kademlia, those that keep connections and addresses right, and those between Peili nodes.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    /// Comes before the limits of all addresses together, so that connections that it refuses do not count there.
    pending: pending::Behaviour,
    limits: connection_limits::Behaviour,
    pub(crate) kad: kademlia::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) flights: Toggle<datagrams::Behaviour>,
}

impl Behaviour {
    pub(crate) fn new(
        keypair: &Keypair,
        node_name: &str,
        flights: bool,
        max_incoming: usize,
    ) -> Self {
        let id = PeerId::from(keypair.public());
        let count = |connections: usize| u32::try_from(connections).unwrap_or(u32::MAX);
        let max_pending = (max_incoming / 8).clamp(1, MAX_PENDING_INCOMING);
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(count(max_pending)))
            .with_max_established_incoming(Some(count(max_incoming)))
            .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER));

        let identify = identify::Config::new(IDENTIFY_PROTOCOL.into(), keypair.public())
            .with_agent_version(Agent::own(node_name))
            .with_push_listen_addr_updates(true)
            // What peers are told is decided for each address; see `AddressFilter`.
            .with_hide_listen_addrs(true)
            // Kademlia knows where to dial.
            .with_cache_size(0);
        let ping = ping::Config::new()
            .with_interval(PING_INTERVAL)
            .with_timeout(PING_TIMEOUT);
        Self {
            pending: pending::Behaviour::new(max_pending),
            limits: connection_limits::Behaviour::new(limits),
            kad: kademlia::Behaviour::new(id),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
            flights: flights.then(datagrams::Behaviour::default).into(),
        }
    }
}

/// TCP, Noise and yamux, with a network key if there is one, and mutual TLS beneath Noise if there are certificates.
/// go-libp2p offers Noise beside TLS by default, so Noise alone reaches Spegel.
///
/// # Errors
/// The key pair cannot sign for Noise.
pub(crate) fn transport(
    keypair: &Keypair,
    keys: Option<Keyring>,
    tls: Option<PeerTls>,
    filter: &AddressFilter,
) -> Result<transport::Boxed<(PeerId, StreamMuxerBox)>, noise::Error> {
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(MAX_STREAMS);
    let tcp = tcp::tokio::Transport::new(tcp::Config::default());
    let tcp = TransportTimeout::with_outgoing_timeout(tcp, CONNECT_TIMEOUT);
    let others = Others {
        inner: tcp,
        filter: filter.clone(),
    };
    Ok(others
        .and_then(move |stream, point| secure(tls, stream, point))
        .upgrade(Version::V1Lazy)
        .authenticate(Handshake::new(keypair, keys)?)
        .multiplex(yamux)
        .timeout(HANDSHAKE_TIMEOUT)
        .boxed())
}

/// Refuses to dial this node's own addresses, and limits dials to unproven ones. libp2p takes the first address of a
/// peer that answers. If that is this node itself (both have a docker0 with the same address), libp2p drops the peer.
struct Others<T> {
    inner: T,
    filter: AddressFilter,
}

impl<T: Transport + Unpin> Transport for Others<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<T::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<T::Dial, TransportError<T::Error>> {
        if let Some(socket) = Endpoint::router(&address) {
            let is_own = self.filter.is_own(&socket);
            // Without a peer, it is an address from the configuration.
            let peer = Endpoint::peer(&address);
            let may_dial = |peer| {
                let mut proven = self.filter.proven.lock();
                proven.may_dial(Instant::now(), &peer, &socket)
            };
            if is_own || !peer.is_none_or(may_dial) {
                return Err(TransportError::MultiaddrNotSupported(address));
            }
        }
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        std::pin::Pin::new(&mut self.inner).poll(context)
    }
}

/// The cause of an error, without libp2p's nesting.
pub(crate) fn listen_error(error: TransportError<io::Error>) -> io::Error {
    match error {
        TransportError::Other(error) => error,
        TransportError::MultiaddrNotSupported(address) => {
            io::Error::new(io::ErrorKind::Unsupported, address.to_string())
        }
    }
}
