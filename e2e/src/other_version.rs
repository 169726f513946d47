//! A peer that reports another version of Peili, and can only be found.

use std::net::Ipv4Addr;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::kad::store::MemoryStore;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{self, NetworkBehaviour};
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, identify, kad, noise, tcp, yamux};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::mirror::{REGISTRY_PORT, ROUTER_PORT};
use crate::network::Host;

/// How long an unused connection stays open: as long as a test may take.
const IDLE: Duration = Duration::from_secs(600);

/// The running peer; it ends when this is dropped.
pub struct OtherVersion {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
}

impl OtherVersion {
    /// Starts it on a host, and makes it connect to a node. `agent`: the name that it reports.
    pub fn start(host: &Host, agent: &str, node: Ipv4Addr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let (agent, address) = (agent.to_owned(), host.address);
        let thread = host.spawn_inside(move || {
            let ended = runtime.block_on(run(&agent, address, node, stopped));
            if let Err(error) = ended {
                println!("the peer of another version: {error:#}");
            }
        })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for OtherVersion {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn run(
    agent: &str,
    address: Ipv4Addr,
    node: Ipv4Addr,
    mut stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_behaviour(|keypair| behaviour(keypair, agent))?
        .with_swarm_config(|config: swarm::Config| config.with_idle_connection_timeout(IDLE))
        .build();
    let at = |ip: Ipv4Addr| Multiaddr::from(ip).with(Protocol::Tcp(ROUTER_PORT));
    swarm.listen_on(at(address))?;
    swarm.add_external_address(at(address));
    swarm.dial(at(node)).context("the node")?;
    let registry = TcpListener::bind((address, REGISTRY_PORT)).await?;
    loop {
        tokio::select! {
            _ = &mut stopped => return Ok(()),
            _ = swarm.select_next_some() => {}
            client = registry.accept() => {
                let (mut client, _) = client?;
                // A connection that closes with unread bytes is reset.
                let _ = client.read(&mut [0; 4096]).await;
                let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
                let _ = client.write_all(answer).await;
            }
        }
    }
}

fn behaviour(keypair: &Keypair, agent: &str) -> Behaviour {
    let id = PeerId::from(keypair.public());
    let identify = identify::Config::new("ipfs/0.1.0".to_owned(), keypair.public())
        .with_agent_version(agent.to_owned());
    let protocol = StreamProtocol::new("/spegel/kad/1.0.0");
    let mut kad = kad::Behaviour::with_config(id, MemoryStore::new(id), kad::Config::new(protocol));
    kad.set_mode(Some(kad::Mode::Server));
    Behaviour {
        identify: identify::Behaviour::new(identify),
        kad,
    }
}
