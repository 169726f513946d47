//! Two swarms on loopback.

use futures::StreamExt as _;
use libp2p::swarm::SwarmEvent;
use libp2p::{Swarm, SwarmBuilder, Transport as _, noise, tcp, yamux};
use tokio::time::timeout;

use super::*;

/// The limit for anything that happens soon or never.
const GENEROUS: Duration = Duration::from_secs(60);
/// The interval between datagrams if the first may have been lost unnoticed.
const RESEND: Duration = Duration::from_millis(20);

async fn swarm() -> (Swarm<Behaviour>, Multiaddr) {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_other_transport(|keypair| {
            let noise = noise::Config::new(keypair).expect("a key for Noise");
            tcp::tokio::Transport::new(tcp::Config::default())
                .upgrade(libp2p::core::upgrade::Version::V1Lazy)
                .authenticate(noise)
                .multiplex(yamux::Config::default())
        })
        .expect("a transport")
        .with_behaviour(|_| Behaviour::default())
        .expect("a behaviour")
        .with_swarm_config(|config| config.with_idle_connection_timeout(GENEROUS))
        .build();
    let any = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
    swarm.listen_on(any).expect("a free port");
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return (swarm, address);
        }
    }
}

/// Runs both swarms until one of them has an event.
async fn next(a: &mut Swarm<Behaviour>, b: &mut Swarm<Behaviour>) -> Event {
    let event = async {
        loop {
            let event = tokio::select! {
                event = a.select_next_some() => event,
                event = b.select_next_some() => event,
            };
            if let SwarmEvent::Behaviour(event) = event {
                return event;
            }
        }
    };
    timeout(GENEROUS, event).await.expect("an event")
}

fn send(from: &mut Swarm<Behaviour>, to: PeerId, address: &Multiaddr, datagram: &[u8]) {
    let datagram = Bytes::copy_from_slice(datagram);
    let address = address.clone();
    from.behaviour_mut().send(to, datagram, || vec![address]);
}

#[tokio::test]
async fn datagrams_arrive_in_order_by_one_stream() {
    let ((mut a, _), (mut b, address)) = (swarm().await, swarm().await);
    let (from, to) = (*a.local_peer_id(), *b.local_peer_id());
    let longest = vec![7; MAX_LEN];
    let sent = [&b""[..], b"one", &longest, b"two"];
    for datagram in sent {
        send(&mut a, to, &address, datagram);
    }
    let mut received = Vec::new();
    while received.len() < sent.len() {
        match next(&mut a, &mut b).await {
            Event::Received {
                from: by,
                datagrams,
                ..
            } => {
                assert_eq!(by, from);
                received.extend(datagrams);
            }
            lost @ Event::Undelivered { .. } => panic!("{lost:?}"),
        }
    }
    assert_eq!(received, sent);
    assert!(a.behaviour().is_idle() && b.behaviour().is_idle());
}

#[tokio::test]
async fn who_refuses_a_connection_is_told_of_at_once() {
    let ((mut a, _), (mut b, address)) = (swarm().await, swarm().await);
    let gone = PeerId::random();
    let nowhere = "/ip4/127.0.0.1/tcp/1".parse().expect("an address");
    for _ in 0..3 {
        send(&mut a, gone, &nowhere, b"lost");
    }
    let undelivered = Event::Undelivered { to: gone };
    assert_eq!(next(&mut a, &mut b).await, undelivered);
    assert!(a.behaviour().is_idle());
    // Another peer answers there.
    send(&mut a, gone, &address, b"lost");
    assert_eq!(next(&mut a, &mut b).await, undelivered);
}

#[tokio::test]
async fn a_length_that_is_too_high_closes_the_stream_and_nothing_else() {
    let ((mut a, _), (b, address)) = (swarm().await, swarm().await);
    let to = *b.local_peer_id();
    send(&mut a, to, &address, &[7; MAX_LEN + 1]);
    goes_on_by_another_stream(a, b, &address).await;
}

#[tokio::test]
async fn who_is_refused_goes_on_by_another_stream() {
    let ((mut a, _), (mut b, address)) = (swarm().await, swarm().await);
    let to = *b.local_peer_id();
    send(&mut a, to, &address, b"garbage");
    let Event::Received {
        from, connection, ..
    } = next(&mut a, &mut b).await
    else {
        panic!("it gets there");
    };
    b.behaviour_mut().refuse(from, connection);
    goes_on_by_another_stream(a, b, &address).await;
}

/// The stream from the first to the second is closed, or about to be.
async fn goes_on_by_another_stream(
    mut a: Swarm<Behaviour>,
    mut b: Swarm<Behaviour>,
    address: &Multiaddr,
) {
    let to = *b.local_peer_id();
    let mut lost = 0;
    // A refused sender notices with the first later datagram that fails.
    loop {
        send(&mut a, to, address, b"sound");
        match timeout(RESEND, next(&mut a, &mut b)).await {
            Ok(Event::Undelivered { .. }) => lost += 1,
            Ok(Event::Received { datagrams, .. }) => {
                assert!(datagrams.iter().all(|datagram| datagram == "sound"));
                // Before it is refused, a stream may deliver some.
                if lost > 0 {
                    break;
                }
            }
            Err(_) => {}
        }
    }
    assert_eq!(lost, 1);
    assert_eq!(a.network_info().connection_counters().num_established(), 1);
}

#[tokio::test]
async fn what_does_not_fit_is_undelivered() {
    let ((mut a, _), (mut b, address)) = (swarm().await, swarm().await);
    let to = *b.local_peer_id();
    let full = MAX_QUEUED / MAX_LEN;
    for _ in 0..=full {
        send(&mut a, to, &address, &[7; MAX_LEN]);
    }
    assert_eq!(next(&mut a, &mut b).await, Event::Undelivered { to });
    let mut received = 0;
    while received < full {
        match next(&mut a, &mut b).await {
            Event::Received { datagrams, .. } => received += datagrams.len(),
            lost @ Event::Undelivered { .. } => panic!("{lost:?}"),
        }
    }
}

#[tokio::test]
async fn who_dies_is_told_of() {
    let ((mut a, _), (mut b, address)) = (swarm().await, swarm().await);
    let to = *b.local_peer_id();
    send(&mut a, to, &address, b"one");
    assert!(matches!(next(&mut a, &mut b).await, Event::Received { .. }));
    drop(b);
    let (mut other, _) = swarm().await;
    assert_eq!(next(&mut a, &mut other).await, Event::Undelivered { to });
    send(&mut a, to, &address, b"two");
    assert_eq!(next(&mut a, &mut other).await, Event::Undelivered { to });
}
