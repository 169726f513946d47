//! A hostile peer that names members that do not exist, at the address of a third host.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::flights::Time;
use ::flights::members::Contact;
use futures::StreamExt as _;
use libp2p::identity::Keypair;
use mirror::serve::ConnectionLimits;

use super::*;
use crate::addresses::AddressFilter;
use crate::flights::{RecordKey, node_id};

/// Nothing here takes so long unless it never happens.
const GENEROUS: Duration = Duration::from_secs(60);
const MADE_UP: usize = 300;

/// The first message of a node that joins: it contains its record.
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

#[tokio::test(flavor = "multi_thread")]
async fn made_up_members_make_a_node_connect_to_a_third_host_a_few_times_only() {
    let config = Config {
        node_name: "n1".to_owned(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        registry_port: 5000,
        data_dir: None,
        bootstrap: Bootstrap::Static { peers: Vec::new() },
        flights: true,
        network_keys: None,
        peer_tls: None,
        connections: ConnectionLimits::default(),
    };
    let mut metrics = Registry::default();
    let bound = bind(config, &mut metrics).await.expect("loopback is there");
    let (port, id) = (bound.port(), bound.id);
    let (_router, _handle) = bound.spawn();
    let address = Multiaddr::from(Endpoint::Router(([127, 0, 0, 1], port).into()));
    let victim = node_id(&id).expect("an Ed25519 key");

    let (third, connections) = third_host();
    let keypair = Keypair::generate_ed25519();
    let filter = AddressFilter::new(true);
    let mut hostile = libp2p::Swarm::new(
        behaviour::transport(&keypair, None, None, &filter).expect("a key for Noise"),
        Behaviour::new(&keypair, "n9", true, 16),
        keypair.public().into(),
        libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(GENEROUS),
    );
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
