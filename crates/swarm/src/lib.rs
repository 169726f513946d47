//! Finds peers and the content that they hold: the mirror's router over libp2p.
//!
//! Nodes find each other by Kademlia (`/spegel/kad/1.0.0`, over TCP, Noise and yamux), in one network with Spegel's.
//! Nodes with flights form a membership: the rules of the crate `flights` decide which nodes are told of announcements,
//! answer lookups and pull from upstream, in datagrams (`/peili/flights/1`; module `datagrams`) that this crate only
//! delivers. Legacy peers, which are Spegel's nodes and Peili nodes without flights, speak Kademlia alone. While there
//! are any, keys are also published and looked up as provider records, which last 19 minutes (module `legacy_peers`).
//! Publishing is the largest cost here. One task owns all of libp2p (module `node`); the rest sends it commands.
//!
//! In clusters of a few to some hundred nodes, connections stay open and a lookup is one round trip. Each bound for
//! larger ones (connections, records, addresses, queued datagrams) is a named constant where it is used.
//!
//! The process must have a default rustls crypto provider when bootstrapping over HTTP.

mod addresses;
mod agent;
mod behaviour;
mod bootstrap;
mod config;
mod datagrams;
mod flights;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handshake;
mod identity;
mod kademlia;
mod key;
mod legacy_peers;
mod metrics;
mod node;
mod peer_address;
mod peers;
mod pending;
mod proven;
mod publish;
#[cfg(test)]
mod reflection_tests;
#[cfg(test)]
mod revocation_tests;
mod router;
mod search;
mod secure;
mod store;
mod table;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libp2p::{Multiaddr, noise};
use mirror::{FlightEvents, ListenAddress, flight_events};
use prometheus_client::registry::Registry;
use rustix::io::Errno;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use bootstrap::CertificateError;
pub use config::{Bootstrap, Config, ConfigError, HttpBootstrap, IdForm};
pub use identity::IdentityError;
pub use peer_address::PeerAddress;
pub use router::Router;

use crate::flights::{Flights, command_queue};
use addresses::{AddressFilter, Endpoint};
use behaviour::Behaviour;
use bootstrap::{Bootstrapper, Server, Source, Status};
use identity::Identity;
use metrics::Metrics;
use node::{Credentials, Inbox, Node, Outbox};
use peers::Remembered;

/// The limit for the operating system to report the port that it assigned.
const BIND_TIMEOUT: Duration = Duration::from_secs(5);
/// The limit for the tasks to end after they were told to.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// The most queued lookups. A further lookup finds nothing.
const FIND_QUEUE: usize = 1024;
/// The most other queued commands. Further senders wait.
const COMMAND_QUEUE: usize = 64;

/// Why the router cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the identity cannot be used for Noise")]
    Noise(#[from] noise::Error),
    #[error("cannot listen on --router-addr {address}")]
    Listen {
        address: ListenAddress,
        source: io::Error,
    },
    #[error("no network interface to listen on within {BIND_TIMEOUT:?}")]
    NoInterface,
    #[error("cannot serve /id on --http-bootstrap-addr {address}")]
    Serve {
        address: ListenAddress,
        source: io::Error,
    },
    #[error("cannot ask for peers over https")]
    Certificates(#[from] CertificateError),
}

/// Binds the addresses, so that a port in use is an error before anything runs.
///
/// # Errors
/// An address is in use, or the data folder or the certificates cannot be used.
pub async fn bind(config: Config, registry: &mut Registry) -> Result<Bound, SwarmError> {
    let identity = match &config.data_dir {
        Some(folder) => Identity::claim(folder)?,
        None => Identity::ephemeral(),
    };
    let keypair = &identity.keypair;
    let remembered = config.data_dir.as_deref().map(peers::load);
    let filter = AddressFilter::new(config.listen.ip.is_some_and(|ip| ip.is_loopback()));
    let source = Source::new(&config.bootstrap, filter.clone())?;
    let server = match &config.bootstrap {
        Bootstrap::Http(http) => match http.serve {
            Some(address) => Some(
                Server::bind(address, http.form, config.connections.http)
                    .map_err(|source| SwarmError::Serve { address, source })?,
            ),
            None => None,
        },
        Bootstrap::Dns { .. } | Bootstrap::Static { .. } => None,
    };

    let swarm = libp2p::Swarm::new(
        behaviour::transport(
            keypair,
            config.network_keys.clone(),
            config.peer_tls.clone(),
            &filter,
        )?,
        Behaviour::new(
            keypair,
            &config.node_name,
            config.flights,
            config.connections.router,
        ),
        keypair.public().into(),
        libp2p::swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(behaviour::IDLE_CONNECTION_TIMEOUT),
    );
    let id = *swarm.local_peer_id();
    let metrics = Metrics::register(registry);
    let (peers_out, peers) = watch::channel(0);
    let (addresses_out, addresses) = watch::channel(Vec::new());
    let (remembered_out, remembered_now) = watch::channel(Vec::new());
    let (events_out, events) = flight_events();
    let outbox = Outbox {
        peers: peers_out,
        addresses: addresses_out,
        remembered: remembered_out,
        events: events_out,
    };
    let flights = match config.flights {
        true => Flights::new(keypair, filter.clone()),
        false => None,
    };
    let mut node = Node::new(
        swarm,
        filter,
        config.registry_port,
        flights,
        Credentials::new(config.network_keys, config.peer_tls),
        metrics,
        outbox,
    );
    let port = listen(&mut node, config.listen).await?;
    Ok(Bound {
        node,
        identity,
        id,
        port,
        source,
        server,
        data_dir: config.data_dir,
        remembered: remembered.unwrap_or_default(),
        peers,
        addresses,
        remembered_now,
        events,
    })
}

/// Listens on all sockets of the address, or on one family if the host has no other. Returns the port.
async fn listen(node: &mut Node, address: ListenAddress) -> Result<u16, SwarmError> {
    probe(address)?;
    let mut port = address.port;
    let mut failed = None;
    let mut bound = 0;
    for mut socket in address.sockets() {
        socket.set_port(port);
        let multiaddr = Multiaddr::from(Endpoint::Router(socket));
        if let Err(error) = node.swarm().listen_on(multiaddr) {
            failed = Some((socket, behaviour::listen_error(error)));
            continue;
        }
        bound += 1;
        if port == 0 {
            let first = timeout(BIND_TIMEOUT, node.first_socket()).await;
            port = first.map_err(|_| SwarmError::NoInterface)?.port();
        }
    }
    match failed {
        Some((_, source)) if bound == 0 => Err(SwarmError::Listen { address, source }),
        Some((socket, error)) if !lacks_family(&error) => {
            tracing::warn!(
                %socket,
                %error,
                "cannot listen on this address; peers reach this node by its others only"
            );
            Ok(port)
        }
        _ => Ok(port),
    }
}

/// Whether the host has no IPv6, or no IPv4, which is not an error.
fn lacks_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// Fails if the port is in use. libp2p binds with SO_REUSEPORT, so a second router would silently take half of the
/// connections of the first. A plain socket detects that.
fn probe(address: ListenAddress) -> Result<(), SwarmError> {
    if address.port == 0 {
        return Ok(());
    }
    let mut last = None;
    // If there are two, the last is that of IPv6, which includes IPv4 unless the host has no IPv6.
    for socket in address.sockets().into_iter().rev() {
        use io::ErrorKind::{AddrInUse, PermissionDenied};
        match TcpListener::bind(socket) {
            Ok(_) => return Ok(()),
            Err(source) => {
                let certain = matches!(source.kind(), AddrInUse | PermissionDenied);
                last = Some(SwarmError::Listen { address, source });
                if certain {
                    break;
                }
            }
        }
    }
    last.map_or(Ok(()), Err)
}

/// A router whose addresses are bound.
pub struct Bound {
    node: Node,
    identity: Identity,
    id: libp2p::PeerId,
    port: u16,
    source: Source,
    server: Option<Server>,
    data_dir: Option<PathBuf>,
    remembered: Vec<Remembered>,
    peers: watch::Receiver<usize>,
    addresses: watch::Receiver<Vec<Multiaddr>>,
    remembered_now: watch::Receiver<Vec<Remembered>>,
    events: FlightEvents,
}

impl Bound {
    /// The port that peers connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address at which `/id` is answered, if it is.
    pub fn id_address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(|server| server.address)
    }

    /// Joins the cluster.
    pub fn spawn(self) -> (Arc<Router>, Handle) {
        let (finds_in, finds) = mpsc::channel(FIND_QUEUE);
        let (commands_in, commands) = mpsc::channel(COMMAND_QUEUE);
        let (flight_commands_in, flight_commands) = command_queue();
        let flight_commands_in = self.node.takes_part().then_some(flight_commands_in);
        let report = String::from("looking for peers");
        let (status_out, status) = watch::channel(Status {
            report,
            ..Status::default()
        });
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let has_legacy_peers = self.node.has_legacy_peers.clone();
        let inbox = Inbox {
            finds,
            commands,
            flight_commands,
        };
        tasks.spawn(self.node.run(inbox, stop.clone()));
        let bootstrapper = Bootstrapper {
            source: self.source,
            loaded: self.remembered,
            met: self.remembered_now.clone(),
            port: self.port,
            node: commands_in.clone(),
            peers: self.peers.clone(),
            status: status_out,
        };
        tasks.spawn(bounded(stop.clone(), bootstrapper.run()));
        if let Some(server) = self.server {
            tasks.spawn(server.run(self.id, self.addresses, stop.clone()));
        }
        if let Some(folder) = self.data_dir {
            tasks.spawn(peers::keep(folder, self.remembered_now));
        }
        let commands = (finds_in, commands_in, flight_commands_in);
        let outputs = (status, self.peers, self.events);
        let router = Router::new(self.id, commands, outputs, has_legacy_peers);
        let handle = Handle {
            stop,
            tasks,
            _identity: self.identity,
        };
        (Arc::new(router), handle)
    }
}

async fn bounded(stop: CancellationToken, task: impl Future<Output = ()>) {
    stop.run_until_cancelled_owned(task).await;
}

/// The router's tasks. Dropping it ends them at once.
#[derive(Debug)]
pub struct Handle {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _identity: Identity,
}

impl Handle {
    /// Waits until the router ends without having been told to, which only a fault can cause.
    pub async fn failed(&mut self) {
        if let Some(Err(error)) = self.tasks.join_next().await {
            tracing::error!(%error, "a task of the router failed");
        }
    }

    /// Leaves the cluster and writes the remembered peers to disk.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_TIMEOUT, ended).await.is_err() {
            tracing::warn!("the router's tasks did not end in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use mirror::serve::ConnectionLimits;

    use super::*;

    #[test]
    fn a_host_without_a_family_is_told_from_a_fault() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        assert!(lacks_family(&error(Errno::AFNOSUPPORT)));
        for fault in [Errno::ADDRINUSE, Errno::ACCESS, Errno::MFILE] {
            assert!(!lacks_family(&error(fault)), "{fault}");
        }
    }

    #[tokio::test]
    async fn a_closed_listener_ends_the_router() {
        /// The limit for anything that happens soon or never.
        const GENEROUS: Duration = Duration::from_secs(60);
        let config = Config {
            node_name: String::new(),
            listen: "127.0.0.1:0".parse().expect("an address"),
            registry_port: 5000,
            data_dir: None,
            bootstrap: Bootstrap::Static { peers: Vec::new() },
            flights: true,
            network_keys: None,
            peer_tls: None,
            connections: ConnectionLimits::default(),
        };
        let bound = bind(config, &mut Registry::default()).await;
        let mut bound = bound.expect("loopback is there");
        let swarm = bound.node.swarm();
        let another = "/ip4/127.0.0.1/tcp/0".parse().expect("a multiaddress");
        let listener = swarm.listen_on(another).expect("a free port");
        assert!(swarm.remove_listener(listener));
        let (_router, mut handle) = bound.spawn();
        timeout(GENEROUS, handle.failed()).await.expect("an end");
    }
}
