//! A hostile peer that delays its handshake until its key was removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use mirror::Router as _;
use mirror::serve::ConnectionLimits;
use network_key::{Keyring, NetworkKeys};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::*;
use crate::addresses::AddressFilter;

/// The limit for anything that happens soon or never.
const GENEROUS: Duration = Duration::from_secs(60);
/// The answer to the choice of a protocol is shorter than this, and together with the answer to the handshake it is
/// longer.
const HANDSHAKE: usize = 100;
/// The node checks for new keys between other requests.
const QUESTIONS: usize = 20;

fn ring(letter: &str) -> Keyring {
    Keyring::new(keys(letter))
}

fn keys(letter: &str) -> NetworkKeys {
    NetworkKeys::parse(letter.repeat(32).as_bytes()).expect("a key")
}

/// Passes on a connection, but holds the last message of the handshake until it is released.
async fn hold_handshake(
    listener: tokio::net::TcpListener,
    to: u16,
    held: Arc<Notify>,
    release: Arc<Notify>,
) -> io::Result<()> {
    let (client, _) = listener.accept().await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_node, mut to_node) = TcpStream::connect(("127.0.0.1", to)).await?.into_split();
    let answered = Arc::new(AtomicUsize::new(0));
    let count = answered.clone();
    let back = async {
        let mut buffer = [0; 4096];
        loop {
            let bytes = from_node.read(&mut buffer).await?;
            if bytes == 0 {
                return to_client.shutdown().await;
            }
            count.fetch_add(bytes, Ordering::SeqCst);
            to_client.write_all(&buffer[..bytes]).await?;
        }
    };
    let forth = async {
        let (mut buffer, mut is_released) = ([0; 4096], false);
        loop {
            let bytes = from_client.read(&mut buffer).await?;
            if bytes == 0 {
                return to_node.shutdown().await;
            }
            if !is_released && answered.load(Ordering::SeqCst) > HANDSHAKE {
                held.notify_one();
                release.notified().await;
                is_released = true;
            }
            to_node.write_all(&buffer[..bytes]).await?;
        }
    };
    tokio::try_join!(back, forth).map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_began_with_an_old_key_makes_no_lasting_connection() {
    let keyring = ring("a");
    let config = Config {
        node_name: "n1".to_owned(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        registry_port: 5000,
        data_dir: None,
        bootstrap: Bootstrap::Static { peers: Vec::new() },
        flights: true,
        network_keys: Some(keyring.clone()),
        peer_tls: None,
        connections: ConnectionLimits::default(),
    };
    let bound = bind(config, &mut Registry::default()).await;
    let bound = bound.expect("loopback is there");
    let port = bound.port();
    let (router, _handle) = bound.spawn();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free port");
    let proxy = listener.local_addr().expect("bound");
    let (held, release) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    tokio::spawn(hold_handshake(
        listener,
        port,
        held.clone(),
        release.clone(),
    ));

    let keypair = Keypair::generate_ed25519();
    let filter = AddressFilter::new(true);
    let mut hostile = libp2p::Swarm::new(
        behaviour::transport(&keypair, Some(ring("a")), None, &filter).expect("a key for Noise"),
        Behaviour::new(&keypair, "n9", true, 16),
        keypair.public().into(),
        libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(2 * GENEROUS),
    );
    let address = Multiaddr::from(Endpoint::Router(proxy));
    let dial = DialOpts::unknown_peer_id().address(address).build();
    hostile.dial(dial).expect("an address");
    let revoked = async {
        held.notified().await;
        keyring.replace(keys("b"));
        for _ in 0..QUESTIONS {
            router.list_peers().await.expect("it can tell");
        }
        release.notify_one();
    };
    let (mut is_connected, mut is_closed) = (false, false);
    let watched = async {
        while !is_closed {
            match hostile.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => is_connected = true,
                SwarmEvent::ConnectionClosed { .. } => is_closed = true,
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    };
    let ended = timeout(GENEROUS, async { tokio::join!(revoked, watched) }).await;
    ended.expect("the connection is closed");
    assert!(is_connected);
}
