//! Routers of a network with a key, and routers without this key.

use std::net::Ipv4Addr;

use network_key::{Keyring, NetworkKeys};

use super::*;

/// Keys made of these letters, one on each line.
fn keys(letters: &str) -> NetworkKeys {
    let lines: Vec<_> = letters.chars().map(|c| c.to_string().repeat(32)).collect();
    NetworkKeys::parse(lines.join("\n").as_bytes()).unwrap_or_default()
}

fn ring(letters: &str) -> Keyring {
    Keyring::new(keys(letters))
}

/// A router that first connects to `peers`. `keys`: `None`: any node may be a peer.
async fn node(number: u16, peers: &[u16], keys: Option<&Keyring>) -> Node {
    run(Config {
        network_keys: keys.cloned(),
        ..config(number, peers)
    })
    .await
}

/// Waits until one node finds an announcement of another. An announcement may be lost with its connection, and is
/// repeated only minutes later, so further ones follow it.
pub(super) async fn shares(holder: &Node, asker: &Node) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let found = async {
        loop {
            let held = Key::Digest(Digest::sha256(&rand::random::<[u8; 32]>()));
            holder.router.announce(vec![held.clone()]).await;
            if let Ok(found) = timeout(PATIENCE, find_one(asker, &held)).await {
                return found;
            }
        }
    };
    let found = timeout(GENEROUS, found).await.expect("they share");
    assert_eq!(found.peer, holder.router.id());
}

pub(super) fn refused(node: &Node) -> bool {
    refusals(node) > 0
}

fn refusals(node: &Node) -> u64 {
    number_of(node, "peili_router_handshakes_refused_total ")
}

fn number_of(node: &Node, name: &str) -> u64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &node.metrics).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.expect("a metric").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_nobodys_peer_and_finds_nothing() {
    let keyring = ring("a");
    let first = node(10_000, &[], Some(&keyring)).await;
    let second = node(10_001, &[first.port], Some(&keyring)).await;
    until(|| first.router.peers() == 1 && second.router.peers() == 1).await;
    first.router.announce(vec![key(1)]).await;
    find_one(&second, &key(1)).await;

    let (none, another, absent) = (None, Some(ring("b")), Some(ring("")));
    for (number, keys) in [none, another, absent].into_iter().enumerate() {
        let before = refusals(&first);
        let ports = [first.port, second.port];
        let stranger = node(11_000 + number as u16, &ports, keys.as_ref()).await;
        until(|| refused(&stranger)).await;
        // A node without any key has nothing to say to another one.
        let is_heard = keys.is_none_or(|keys| !keys.current().is_empty());
        until(|| !is_heard || refusals(&first) > before).await;
        // A round has ended without a peer.
        ready(&stranger).await;
        assert_eq!(stranger.router.peers(), 0, "stranger {number}");
        assert!(find(&stranger, &key(1)).await.is_empty());
        let peers = stranger.router.list_peers().await.expect("it can tell");
        assert_eq!(peers.refused_nodes, [Ipv4Addr::LOCALHOST]);
        let why = peers.why_none.expect("a reason");
        assert!(why.contains("network key"), "{why}");
        // Nor does a node with the key connect to it.
        stranger.router.announce(vec![key(2)]).await;
        let known = node(12_000, &[stranger.port, first.port], Some(&keyring)).await;
        until(|| known.router.peers() == 2).await;
        assert!(find(&known, &key(2)).await.is_empty());
    }
}

/// Spegel offers Noise without a key, and takes part in no flights.
#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_node_is_a_stranger_and_one_with_the_key_is_none() {
    let keyring = ring("a");
    let first = node(10_000, &[], Some(&keyring)).await;
    let legacy = run(plain(10_001, &[first.port])).await;
    until(|| refused(&legacy)).await;
    assert_eq!((first.router.peers(), legacy.router.peers()), (0, 0));
    let without_flights = run(Config {
        network_keys: Some(keyring.clone()),
        ..plain(10_002, &[first.port])
    })
    .await;
    until(|| without_flights.router.peers() == 1).await;
    without_flights.router.announce(vec![key(1)]).await;
    find_one(&first, &key(1)).await;
}

/// Each node learns at a different time of the new key and of the end of the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_parts_nobody() {
    let rings = [ring("a"), ring("a"), ring("a")];
    let mut nodes = vec![node(10_000, &[], Some(&rings[0])).await];
    for (number, keyring) in (10_001..).zip(&rings[1..]) {
        nodes.push(node(number, &[nodes[0].port], Some(keyring)).await);
    }
    until(|| nodes.iter().all(|node| node.router.peers() == 2)).await;
    let steps = ["ab", "b"].into_iter();
    let steps = steps.flat_map(|letters| rings.iter().map(move |keyring| (keyring, letters)));
    for (keyring, letters) in steps {
        keyring.replace(keys(letters));
        for holder in &nodes {
            for asker in nodes.iter().filter(|n| n.port != holder.port) {
                shares(holder, asker).await;
            }
        }
    }
    assert!(!nodes.iter().any(refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_key_has_connected_is_parted() {
    let (one, two) = (ring("a"), ring("a"));
    let first = node(10_000, &[], Some(&one)).await;
    let second = node(10_001, &[first.port], Some(&two)).await;
    until(|| first.router.peers() == 1 && second.router.peers() == 1).await;
    first.router.announce(vec![key(1)]).await;
    find_one(&second, &key(1)).await;

    one.replace(keys("b"));
    until(|| first.router.peers() == 0 && second.router.peers() == 0).await;
    first.router.announce(vec![key(2)]).await;
    assert!(find(&second, &key(2)).await.is_empty());
    two.replace(keys("cb"));
    shares(&first, &second).await;
}

/// A node whose key arrives after its start, as a Secret may.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_comes_late_lets_the_node_in() {
    let keyring = ring("a");
    let first = node(10_000, &[], Some(&keyring)).await;
    let late = ring("");
    let second = node(10_001, &[first.port], Some(&late)).await;
    until(|| refused(&second)).await;
    late.replace(keys("a"));
    until(|| first.router.peers() == 1 && second.router.peers() == 1).await;
}

/// A health check or a port scan is no node with another key.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_byte_is_no_stranger() {
    let keyring = ring("a");
    for keys in [None, Some(&keyring)] {
        let node = node(10_000, &[], keys).await;
        let probe = std::net::TcpStream::connect(("127.0.0.1", node.port));
        drop(probe.expect("it listens"));
        // Connections are accepted in turn, so the probe has been seen when this one is a peer.
        let peer = super::run(Config {
            network_keys: keys.cloned(),
            ..config(10_001, &[node.port])
        })
        .await;
        until(|| node.router.peers() == 1 && peer.router.peers() == 1).await;
        let peers = node.router.list_peers().await.expect("it can tell");
        assert_eq!(peers.refused_nodes, [] as [std::net::IpAddr; 0]);
        assert!(!refused(&node));
    }
}
