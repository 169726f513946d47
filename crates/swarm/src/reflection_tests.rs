//! A hostile peer that names members, or providers, that do not exist, at the address of a third host.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::flights::Time;
use ::flights::members::Contact;
use futures::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use mirror::Router as _;
use mirror::serve::ConnectionLimits;

use super::*;
use crate::addresses::AddressFilter;
use crate::flights::{RecordKey, mirror_peer, node_id};
use crate::key::RoutingKey;

/// The limit for anything that happens soon or never.
const GENEROUS: Duration = Duration::from_secs(60);
const MADE_UP: usize = 300;

/// The first message of a joining node: it contains its record.
fn introduction(keypair: &Keypair, contact: Contact, to: ::flights::NodeId) -> Vec<bytes::Bytes> {
    let id = node_id(&keypair.public().into()).expect("an Ed25519 key");
    let records = RecordKey::new(keypair.clone()).expect("an Ed25519 key");
    let mut node = ::flights::Node::new(Time(0), id, contact, 1, Box::new(records));
    node.join(Time(0), [to]);
    let datagrams = node.take_datagrams().into_iter();
    datagrams.map(|datagram| datagram.bytes).collect()
}

/// A host that counts connections.
fn third_host() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, count)
}

fn metric(registry: &Registry, name: &str) -> u64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|value| value.trim().parse().ok())
        .expect("a metric")
}

fn config(flights: bool) -> Config {
    Config {
        node_name: "n1".to_owned(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        registry_port: 5000,
        data_dir: None,
        bootstrap: Bootstrap::Static { peers: Vec::new() },
        flights,
        network_keys: None,
        peer_tls: None,
        connections: ConnectionLimits::default(),
    }
}

fn hostile(keypair: &Keypair, flights: bool) -> libp2p::Swarm<Behaviour> {
    let filter = AddressFilter::new(true);
    libp2p::Swarm::new(
        behaviour::transport(keypair, None, None, &filter).expect("a key for Noise"),
        Behaviour::new(keypair, "n9", flights, 16),
        keypair.public().into(),
        libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(GENEROUS),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_members_make_a_node_connect_to_a_third_host_a_few_times_only() {
    let mut metrics = Registry::default();
    let bound = bind(config(true), &mut metrics).await;
    let bound = bound.expect("loopback is there");
    let (port, id) = (bound.port(), bound.id);
    let (_router, _handle) = bound.spawn();
    let address = Multiaddr::from(Endpoint::Router(([127, 0, 0, 1], port).into()));
    let victim = node_id(&id).expect("an Ed25519 key");

    let (third, connections) = third_host();
    let keypair = Keypair::generate_ed25519();
    let mut hostile = hostile(&keypair, true);
    let elsewhere = || Contact::new(vec![third], vec![third]);
    let mut said = introduction(&keypair, elsewhere(), victim);
    for _ in 0..MADE_UP {
        said.extend(introduction(
            &Keypair::generate_ed25519(),
            elsewhere(),
            victim,
        ));
    }
    let flights = hostile.behaviour_mut().flights.as_mut().expect("it is on");
    for datagram in said {
        flights.send(id, datagram, || vec![address.clone()]);
    }
    let talk = async { while hostile.next().await.is_some() {} };
    let refused = async {
        while metric(&metrics, "peili_router_dials_refused_total ") < MADE_UP as u64 / 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = talk => panic!("a swarm does not end"),
        refused = timeout(GENEROUS, refused) => refused.expect("it names them all"),
    }
    assert!(connections.load(Ordering::SeqCst) <= 4);
    assert!(
        metric(&metrics, "peili_router_members ") <= 2,
        "they are no members"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_providers_make_a_node_ask_a_third_host_a_few_times_only() {
    let bound = bind(config(false), &mut Registry::default()).await;
    let bound = bound.expect("loopback is there");
    let (port, id) = (bound.port(), bound.id);
    let (router, _handle) = bound.spawn();
    let third = SocketAddr::from(([127, 0, 0, 2], 4000));
    let key = oci::Key::Digest(oci::Digest::sha256(b"layer"));

    let keypair = Keypair::generate_ed25519();
    let provider = mirror_peer(&keypair.public().into());
    let mut hostile = hostile(&keypair, false);
    let local = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
    hostile.listen_on(local).expect("loopback is there");
    let local = loop {
        if let Some(SwarmEvent::NewListenAddr { address, .. }) = hostile.next().await {
            break address;
        }
    };
    hostile.add_external_address(local);
    // Its own registry is announced there, too.
    hostile.add_external_address(Endpoint::Registry(third).into());
    let kad = &mut hostile.behaviour_mut().kad;
    kad.add_address(&id, Endpoint::Router(([127, 0, 0, 1], port).into()).into());
    let elsewhere = [Endpoint::Router(third), Endpoint::Registry(third)].map(Multiaddr::from);
    let expires = std::time::Instant::now() + GENEROUS;
    let routing_key = RoutingKey::from(&key);
    for _ in 0..20 {
        let made_up = Keypair::generate_ed25519().public().into();
        let store = kad.store_mut();
        store.insert(routing_key, made_up, &elsewhere, expires);
    }
    kad.start_providing(routing_key.into())
        .expect("it takes its own");
    let talk = async { while hostile.next().await.is_some() {} };
    let ask = async {
        let (mut times_found, mut third_host_named) = (0, 0);
        while times_found < 5 {
            let mut search = router.find(&key);
            while let Some(candidate) = search.next().await {
                let names_third = candidate.addresses.contains(&third);
                if candidate.peer == provider {
                    times_found += 1;
                    assert!(!names_third, "it was met elsewhere: {candidate:?}");
                } else {
                    third_host_named += usize::from(names_third);
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        third_host_named
    };
    let named = tokio::select! {
        () = talk => panic!("a swarm does not end"),
        named = timeout(GENEROUS, ask) => named.expect("it is found"),
    };
    assert!(named <= 4, "{named} times");
}
