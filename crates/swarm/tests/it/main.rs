//! Routers on loopback: what the trait promises, with few nodes and with many.

mod flights;
mod network_keys;
mod peer_tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use mirror::serve::ConnectionLimits;
use mirror::{Candidate, PeerMembership, Router as _};
use oci::{Digest, Key};
use prometheus_client::registry::Registry;
use swarm::{Bootstrap, Bound, Config, Handle, HttpBootstrap, IdForm, Router};
use tokio::time::{sleep, timeout};

/// The limit for anything that happens soon or never.
const GENEROUS: Duration = Duration::from_secs(120);

struct Node {
    router: Arc<Router>,
    handle: Handle,
    port: u16,
    registry_port: u16,
    metrics: Registry,
}

fn config(registry_port: u16, peers: &[u16]) -> Config {
    let peers = peers.iter().map(|port| format!("127.0.0.1:{port}"));
    Config {
        node_name: format!("node-{registry_port}"),
        listen: "127.0.0.1:0".parse().expect("an address"),
        registry_port,
        data_dir: None,
        bootstrap: Bootstrap::Static {
            peers: peers.map(|p| p.parse().expect("a peer")).collect(),
        },
        flights: true,
        network_keys: None,
        peer_tls: None,
        connections: ConnectionLimits::default(),
    }
}

/// The configuration of a node without flights, like Spegel's.
fn plain(registry_port: u16, peers: &[u16]) -> Config {
    Config {
        flights: false,
        ..config(registry_port, peers)
    }
}

async fn bind(config: Config) -> (Bound, Registry) {
    let mut registry = Registry::default();
    let bound = swarm::bind(config, &mut registry).await;
    (bound.expect("loopback is there"), registry)
}

fn spawn((bound, metrics): (Bound, Registry), registry_port: u16) -> Node {
    let port = bound.port();
    let (router, handle) = bound.spawn();
    Node {
        router,
        handle,
        port,
        registry_port,
        metrics,
    }
}

async fn run(config: Config) -> Node {
    let registry_port = config.registry_port;
    spawn(bind(config).await, registry_port)
}

async fn start(registry_port: u16, peers: &[u16]) -> Node {
    run(config(registry_port, peers)).await
}

/// Nodes that all bootstrap from the first, a few at a time: all at once would overload two cores of a test machine and
/// cause timeouts.
async fn cluster(nodes: u16, config: impl Fn(u16, &[u16]) -> Config) -> Vec<Node> {
    const WAVE: usize = 8;
    let mut cluster = vec![run(config(10_000, &[])).await];
    for number in 1..nodes {
        cluster.push(run(config(10_000 + number, &[cluster[0].port])).await);
        if cluster.len().is_multiple_of(WAVE) {
            join_all(cluster.iter().map(ready)).await;
        }
    }
    join_all(cluster.iter().map(ready)).await;
    cluster
}

async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(GENEROUS, wait).await.expect("it comes true");
}

async fn ready(node: &Node) {
    until(|| node.router.health().is_ready()).await;
}

fn key(number: usize) -> Key {
    Key::Digest(Digest::sha256(&number.to_be_bytes()))
}

async fn find(node: &Node, key: &Key) -> Vec<Candidate> {
    let mut search = node.router.find(key);
    let mut found = Vec::new();
    while let Some(candidate) = timeout(GENEROUS, search.next()).await.expect("an end") {
        found.push(candidate);
    }
    found
}

/// Repeats a lookup until a peer is found: an announcement takes time.
async fn find_one(node: &Node, key: &Key) -> Candidate {
    let wait = async {
        loop {
            let mut search = node.router.find(key);
            if let Some(candidate) = search.next().await {
                return candidate;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(GENEROUS, wait).await.expect("it is found")
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_traits_promises() {
    keeps_promises(cluster(4, config).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_traits_promises_without_flights() {
    keeps_promises(cluster(4, plain).await).await;
}

async fn keeps_promises(nodes: Vec<Node>) {
    let (holder, others) = nodes.split_first().expect("four");
    let held = key(1);
    holder.router.announce(vec![held.clone()]).await;
    holder.router.announce(vec![held.clone()]).await;
    for other in others {
        let candidate = find_one(other, &held).await;
        assert_eq!(candidate.peer, holder.router.id());
        let registry = SocketAddr::from(([127, 0, 0, 1], holder.registry_port));
        assert_eq!(*candidate.addresses, [registry]);
    }
    let found = find(&others[0], &held).await;
    assert_eq!(found.len(), 1, "each peer once: {found:?}");

    assert!(find(holder, &held).await.is_empty(), "never ourselves");
    others[0].router.announce(vec![held.clone()]).await;
    assert_eq!(
        find_one(holder, &held).await.peer,
        others[0].router.id(),
        "others, though we have it"
    );

    let started = Instant::now();
    assert!(find(holder, &key(2)).await.is_empty());
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_shown_before_anything_is_pulled() {
    let nodes = cluster(3, config).await;
    let all_shown = async {
        loop {
            let peers = nodes[1].router.list_peers().await.expect("it can tell");
            if peers.count == 2 && peers.listed.iter().all(|peer| peer.name.is_some()) {
                return peers.listed;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let mut peers = timeout(GENEROUS, all_shown).await.expect("they are shown");
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    for (peer, number) in peers.iter().zip([0, 2]) {
        assert_eq!(peer.peer, nodes[number].router.id());
        assert_eq!(peer.name, Some(format!("node-{}", 10_000 + number)));
        assert_eq!(peer.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(peer.membership, PeerMembership::Member);
        let port = nodes[number].registry_port;
        assert_eq!(peer.addresses[0].port(), port);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_flights_is_shown_as_legacy() {
    let with = run(config(10_000, &[])).await;
    let without = run(plain(10_001, &[with.port])).await;
    for (node, membership) in [
        (&with, PeerMembership::Legacy),
        (&without, PeerMembership::Member),
    ] {
        let shown = async {
            loop {
                let peers = node.router.list_peers().await.expect("it can tell");
                if let [peer] = &peers.listed[..] {
                    return peer.membership;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        assert_eq!(
            timeout(GENEROUS, shown).await.expect("it is shown"),
            membership
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_key_is_no_longer_answered_for() {
    // Alone, the holder announces to no other node, so that only it can answer for the key.
    for config in [config, plain] {
        let holder = run(config(10_000, &[])).await;
        ready(&holder).await;
        let (kept, withdrawn) = (key(1), key(2));
        let both = vec![withdrawn.clone(), kept.clone()];
        holder.router.announce(both).await;
        holder.router.withdraw(vec![withdrawn.clone()]).await;
        let other = run(config(10_001, &[holder.port])).await;
        find_one(&other, &kept).await;
        assert!(find(&other, &withdrawn).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_found_among_32() {
    every_key_is_found(cluster(32, config).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_found_among_32_without_flights() {
    every_key_is_found(cluster(32, plain).await).await;
}

async fn every_key_is_found(nodes: Vec<Node>) {
    const KEYS: usize = 200;
    let keys: Vec<_> = (0..KEYS).map(key).collect();
    for (number, key) in keys.iter().enumerate() {
        let holder = &nodes[number % nodes.len()].router;
        holder.announce(vec![key.clone()]).await;
    }
    for (number, key) in keys.iter().enumerate() {
        let holder = nodes[number % nodes.len()].router.id();
        let askers = [1, 7, 31].map(|step| &nodes[(number + step) % nodes.len()]);
        let found = join_all(askers.map(|asker| find_one(asker, key))).await;
        assert!(found.iter().all(|candidate| candidate.peer == holder));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_announced_alone_is_found_by_who_comes_later() {
    let first = run(plain(10_000, &[])).await;
    ready(&first).await;
    assert_eq!(first.router.peers(), 0);
    first.router.announce((0..20).map(key).collect()).await;
    let second = run(plain(10_001, &[first.port])).await;
    let third = run(plain(10_002, &[first.port])).await;
    for number in 0..20 {
        assert_eq!(find_one(&third, &key(number)).await.peer, first.router.id());
    }
    // The others know it from their own records, not from the holder alone.
    first.handle.shutdown().await;
    assert_eq!(find_one(&second, &key(0)).await.peer, first.router.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_searches_do_no_harm() {
    let nodes = cluster(3, config).await;
    for number in 0..100 {
        drop(nodes[0].router.find(&key(number)));
    }
    nodes[1].router.announce(vec![key(1)]).await;
    find_one(&nodes[0], &key(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_peers_hold_up_no_look_up() {
    survives_the_dead(cluster(8, config).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_peers_hold_up_no_look_up_without_flights() {
    survives_the_dead(cluster(8, plain).await).await;
}

async fn survives_the_dead(mut nodes: Vec<Node>) {
    nodes[0].router.announce(vec![key(1)]).await;
    find_one(&nodes[1], &key(1)).await;
    for dead in nodes.split_off(4) {
        drop(dead.handle);
    }
    for node in &nodes[1..] {
        assert_eq!(find_one(node, &key(1)).await.peer, nodes[0].router.id());
    }
    // With provider records, all near nodes are asked for a key that no node has, which shows which of them are dead.
    for node in &nodes {
        assert!(find(node, &key(2)).await.is_empty());
    }
    until(|| nodes.iter().all(|node| node.router.peers() <= 4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn remembers_identity_and_peers() {
    let folder = tempfile::tempdir().expect("a folder");
    let with_folder = |peers: &[u16]| Config {
        data_dir: Some(folder.path().into()),
        ..config(10_001, peers)
    };
    let first = start(10_000, &[]).await;
    let second = spawn(bind(with_folder(&[first.port])).await, 10_001);
    let id = second.router.id();
    until(|| second.router.peers() == 1 && first.router.peers() == 1).await;
    second.handle.shutdown().await;
    let again = spawn(bind(with_folder(&[])).await, 10_001);
    assert_eq!(again.router.id(), id);
    until(|| again.router.peers() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstraps_over_http_in_both_forms() {
    for form in [IdForm::List, IdForm::One] {
        let http = |http| Config {
            bootstrap: Bootstrap::Http(http),
            ..config(10_000, &[])
        };
        let serving = bind(http(HttpBootstrap {
            serve: Some("127.0.0.1:0".parse().expect("an address")),
            form,
            ..HttpBootstrap::default()
        }))
        .await;
        let peer = format!("http://{}", serving.0.id_address().expect("served"));
        let serving = spawn(serving, 10_000);
        let endpoints = ["http://127.0.0.1:1", &peer];
        let endpoints = endpoints.map(|p| HttpBootstrap::endpoint_of_peer(p).expect("a URL"));
        let asking = bind(http(HttpBootstrap {
            endpoints: endpoints.into(),
            ..HttpBootstrap::default()
        }))
        .await;
        let asking = spawn(asking, 10_001);
        until(|| asking.router.peers() == 1 && serving.router.peers() == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstraps_by_name() {
    let first = start(10_000, &[]).await;
    let mut by_name = config(10_001, &[]);
    by_name.bootstrap = Bootstrap::Static {
        peers: vec![format!("localhost:{}", first.port).parse().expect("a peer")],
    };
    let second = spawn(bind(by_name).await, 10_001);
    until(|| second.router.peers() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_an_error_before_anything_runs() {
    let first = start(10_000, &[]).await;
    let mut taken = config(10_001, &[]);
    taken.listen = format!("127.0.0.1:{}", first.port)
        .parse()
        .expect("an address");
    let error = swarm::bind(taken, &mut Registry::default()).await.err();
    let error = error.expect("taken").to_string();
    assert!(
        error.contains(&format!("127.0.0.1:{}", first.port)),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn listens_on_both_families() {
    let mut all = config(10_000, &[]);
    all.listen = ":0".parse().expect("an address");
    let (bound, _) = bind(all).await;
    let reached = |address: &str| {
        let address = format!("{address}:{}", bound.port());
        async move { tokio::net::TcpStream::connect(address).await }
    };
    assert!(reached("127.0.0.1").await.is_ok());
    if tokio::net::TcpListener::bind("[::1]:0").await.is_ok() {
        assert!(reached("[::1]").await.is_ok());
    }
}
