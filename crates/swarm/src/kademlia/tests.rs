use std::convert::Infallible;
use std::io::{self, ErrorKind};

use futures::StreamExt as _;
use futures::future::Either;
use futures::io::Cursor;
use libp2p::core::upgrade::{InboundUpgrade as _, UpgradeInfo as _};

use libp2p::Swarm;
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use tokio::time::timeout;

use super::*;
use crate::addresses::{AddressFilter, MAX_ADDRESSES};
use crate::behaviour::{self, BehaviourEvent};
use crate::key::RoutingKey;

/// The limit for anything that happens soon or never.
const GENEROUS: Duration = Duration::from_secs(60);

fn swarm() -> Swarm<behaviour::Behaviour> {
    let keypair = Keypair::generate_ed25519();
    let filter = AddressFilter::new(true);
    let config = libp2p::swarm::Config::with_tokio_executor();
    Swarm::new(
        behaviour::transport(&keypair, None, None, &filter).expect("a key for Noise"),
        behaviour::Behaviour::new(&keypair, "n1", false, 16),
        keypair.public().into(),
        config.with_idle_connection_timeout(GENEROUS),
    )
}

fn key() -> RoutingKey {
    (&oci::Key::Digest(oci::Digest::sha256(b"layer"))).into()
}

/// Two nodes. The second knows where the first is.
async fn pair() -> [Swarm<behaviour::Behaviour>; 2] {
    let [mut first, mut second] = [swarm(), swarm()];
    let local = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
    first.listen_on(local).expect("loopback is there");
    while first.listeners().next().is_none() {
        first.next().await;
    }
    let address = first.listeners().next().expect("one").clone();
    let id = *first.local_peer_id();
    second.behaviour_mut().kad.add_address(&id, address);
    [first, second]
}

/// Runs both nodes until the event of one of them is the expected one.
async fn until<T>(
    swarm: &mut Swarm<behaviour::Behaviour>,
    other: &mut Swarm<behaviour::Behaviour>,
    expected: impl Fn(kad::Event) -> Option<T>,
) -> T {
    let event = async {
        loop {
            if let SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) =
                swarm.select_next_some().await
                && let Some(found) = expected(event)
            {
                return found;
            }
        }
    };
    tokio::select! {
        found = timeout(GENEROUS, event) => found.expect("it comes"),
        () = async { while other.next().await.is_some() {} } => panic!("a swarm does not end"),
    }
}

fn addresses(count: usize) -> Vec<Multiaddr> {
    let address = |port| format!("/ip6/fd00::1/tcp/{port}").parse();
    let addresses = (1..=count).map(|port| address(port).expect("an address"));
    addresses.collect()
}

#[tokio::test]
async fn an_announcement_with_all_addresses_is_read() {
    /// The most that libp2p announces.
    const ADDRESSES: usize = 20;
    let [mut node, mut peer] = pair().await;
    for address in addresses(ADDRESSES) {
        peer.add_external_address(address);
    }
    let kad = &mut peer.behaviour_mut().kad;
    kad.start_providing(key().into()).expect("there is room");
    let announced = until(&mut node, &mut peer, |event| match event {
        kad::Event::InboundRequest {
            request: kad::InboundRequest::AddProvider { record },
        } => Some(record.expect("it is given out").addresses.len()),
        _ => None,
    });
    assert_eq!(announced.await, ADDRESSES);
}

#[tokio::test]
async fn an_answer_may_be_longer_than_a_request() {
    /// The most that libp2p answers with. Their addresses take 7,040 bytes.
    const PROVIDERS: usize = 20;
    let [mut node, mut peer] = pair().await;
    let expires = std::time::Instant::now() + GENEROUS;
    for _ in 0..PROVIDERS {
        let store = node.behaviour_mut().kad.store_mut();
        store.insert(key(), PeerId::random(), &addresses(MAX_ADDRESSES), expires);
    }
    let query = peer.behaviour_mut().kad.get_providers(key().into());
    let found = until(&mut peer, &mut node, |event| match event {
        kad::Event::OutboundQueryProgressed {
            id,
            result: kad::QueryResult::GetProviders(result),
            ..
        } if id == query => match result {
            Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) => Some(providers.len()),
            _ => Some(0),
        },
        _ => None,
    });
    assert_eq!(found.await, PROVIDERS);
}

/// The length of a message as a varint, and all of the message but its last byte.
fn incomplete(length: usize) -> Cursor<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), length);
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes.resize(bytes.len() + length - 1, 0);
    Cursor::new(bytes)
}

fn handler() -> Handler {
    let (id, nowhere) = (PeerId::random(), Multiaddr::empty());
    let connection = ConnectionId::new_unchecked(1);
    Behaviour::new(id)
        .handle_established_inbound_connection(connection, id, &nowhere, &nowhere)
        .expect("it denies no connection")
}

/// What ends an incomplete message: the length that it declares, or the end of the stream.
async fn read<S, T, E: std::fmt::Debug>(stream: Result<Either<S, Infallible>, E>) -> ErrorKind
where
    S: futures::Stream<Item = io::Result<T>> + Unpin,
{
    let Ok(Either::Left(mut stream)) = stream else {
        panic!("Kademlia is spoken");
    };
    let message = stream.next().await.expect("an error");
    message.err().expect("incomplete").kind()
}

#[tokio::test]
async fn a_peer_can_leave_short_requests_incomplete_only() {
    for (length, end) in [
        (MAX_REQUEST, ErrorKind::UnexpectedEof),
        (MAX_REQUEST + 1, ErrorKind::InvalidData),
        (MAX_ANSWER, ErrorKind::InvalidData),
    ] {
        let (protocol, ()) = handler().listen_protocol().into_upgrade();
        let name = protocol.protocol_info().next().expect("one");
        let stream = protocol.upgrade_inbound(incomplete(length), name).await;
        assert_eq!(read(stream).await, end, "{length}");
    }
}
