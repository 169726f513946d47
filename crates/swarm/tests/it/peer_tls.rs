//! Routers with certificates, and routers without a valid one.

use network_key::{Keyring, NetworkKeys};
use tls::PeerTls;
use tls::testing::Authority;

use super::network_keys::{refused, shares};
use super::*;

/// A router that first connects to `peers`.
async fn node(number: u16, peers: &[u16], tls: Option<&PeerTls>) -> Node {
    run(Config {
        peer_tls: tls.cloned(),
        ..config(number, peers)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_nobodys_peer_and_finds_nothing() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (one, two) = (ours.node(), ours.node());
    let first = node(10_000, &[], Some(&one)).await;
    let second = node(10_001, &[first.port], Some(&two)).await;
    until(|| first.router.peers() == 1 && second.router.peers() == 1).await;
    first.router.announce(vec![key(1)]).await;
    find_one(&second, &key(1)).await;

    let believer = PeerTls::new(Some(theirs.certificates(&[&ours, &theirs])));
    let strangers = [
        (None, false),
        (Some(theirs.node()), true),
        (Some(believer), true),
        (Some(PeerTls::new(None)), false),
    ];
    for (number, (tls, is_told)) in strangers.into_iter().enumerate() {
        let ports = [first.port, second.port];
        let stranger = node(11_000 + number as u16, &ports, tls.as_ref()).await;
        until(|| !is_told || refused(&stranger)).await;
        // A round has ended without a peer.
        ready(&stranger).await;
        assert_eq!(stranger.router.peers(), 0, "stranger {number}");
        assert!(find(&stranger, &key(1)).await.is_empty());
        // Nor does a node with a certificate connect to it.
        stranger.router.announce(vec![key(2)]).await;
        let known = node(12_000, &[stranger.port, first.port], Some(&two)).await;
        until(|| known.router.peers() == 2).await;
        assert!(find(&known, &key(2)).await.is_empty());
    }
    assert!(refused(&first));
}

/// Spegel offers Noise without TLS, and takes part in no flights.
#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_node_is_a_stranger() {
    let ours = Authority::new("ours");
    let first = node(10_000, &[], Some(&ours.node())).await;
    let legacy = run(plain(10_001, &[first.port])).await;
    until(|| refused(&first)).await;
    ready(&legacy).await;
    assert_eq!((first.router.peers(), legacy.router.peers()), (0, 0));
}

/// With a key and certificates, a peer needs both.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_does_not_stand_in_for_the_network_key() {
    let ours = Authority::new("ours");
    let keyring = |letter: &str| {
        let keys = NetworkKeys::parse(letter.repeat(32).as_bytes());
        Some(Keyring::new(keys.expect("a key")))
    };
    let both = |number, peers: &[u16], network_keys| Config {
        network_keys,
        peer_tls: Some(ours.node()),
        ..config(number, peers)
    };
    let first = run(both(10_000, &[], keyring("a"))).await;
    let second = run(both(10_001, &[first.port], keyring("a"))).await;
    until(|| first.router.peers() == 1 && second.router.peers() == 1).await;
    let keyless = run(both(10_002, &[first.port], None)).await;
    until(|| refused(&keyless)).await;
    let other = run(both(10_003, &[first.port], keyring("b"))).await;
    until(|| refused(&other)).await;
    assert_eq!((keyless.router.peers(), other.router.peers()), (0, 0));
}

/// Each node learns of each step at a different time.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_parts_nobody_and_a_revocation_does() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (one, two) = (old.node(), old.node());
    let first = node(10_000, &[], Some(&one)).await;
    let second = node(10_001, &[first.port], Some(&two)).await;
    until(|| first.router.peers() == 1 && second.router.peers() == 1).await;
    let both = [&old, &new];
    let steps = [
        (&one, old.certificates(&both)),
        (&two, new.certificates(&both)),
        (&one, new.certificates(&both)),
        (&one, new.certificates(&[&new])),
        (&two, new.certificates(&[&new])),
    ];
    for (tls, certificates) in steps {
        tls.replace(certificates);
        shares(&first, &second).await;
        shares(&second, &first).await;
    }
    two.replace(old.certificates(&[&old]));
    until(|| first.router.peers() == 0 && second.router.peers() == 0).await;
    first.router.announce(vec![key(2)]).await;
    assert!(find(&second, &key(2)).await.is_empty());
}

/// A node whose certificate arrives after its start, as a Secret may.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_comes_late_lets_the_node_in() {
    let ours = Authority::new("ours");
    let first = node(10_000, &[], Some(&ours.node())).await;
    let late = PeerTls::new(None);
    let second = node(10_001, &[first.port], Some(&late)).await;
    ready(&second).await;
    assert_eq!(second.router.peers(), 0);
    late.replace(ours.certificates(&[&ours]));
    until(|| first.router.peers() == 1 && second.router.peers() == 1).await;
}
