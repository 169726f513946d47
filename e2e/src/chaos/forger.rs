//! A member that sends other members invalid messages.
//!
//! It has the key of a hostile member that is on all lists, so its messages are accepted, and implements the protocol
//! `/peili/flights/1` directly: messages about others, unrequested answers, reports of pulls that do not exist, and
//! random bytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::{Either, select};
use futures::io::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::Endpoint;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox};
use libp2p::core::transport::{DialOpts, PortUse, Transport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, noise, tcp, yamux};
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::random::Random;
use wire::envelope::Message;
use wire::{member_update::Status, members_message::Kind};

mod wire {
    tonic::include_proto!("peili.flights");
}

/// The messages sent to a member at a time, and the time between bursts.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);
/// The limit for a connection and the choice of the protocol.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The lines by which a protocol is chosen (multistream-select 1.0), each with its length.
const CHOICE: &[u8] = b"\x13/multistream/1.0.0\n\x11/peili/flights/1\n";
/// The bytes before the seed in a key file (RFC 8410, section 7).
const KEY_PREFIX: usize = 16;
/// The address of made-up members: a host that is not a member.
const VICTIM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2)), 5000);

/// Sends forged messages to the members until it is stopped. `key`: the file of a member's key.
pub async fn run(
    key: &Path,
    members: Vec<SocketAddr>,
    mut is_told: watch::Receiver<bool>,
) -> Result<()> {
    let key = std::fs::read_to_string(key).context("the key of a hostile member")?;
    let key = pem::parse(key)?;
    let seed = key
        .contents()
        .get(KEY_PREFIX..)
        .context("a key of another form")?;
    let keypair = Keypair::ed25519_from_bytes(seed.to_vec())?;
    let mut random = Random::new(0x00f0_49e5);
    let mut known = Vec::new();
    loop {
        if is_told.wait_for(|told| *told).await.is_err() {
            return Ok(());
        }
        for member in &members {
            let said = timeout(
                CONNECT_LIMIT,
                tell(&keypair, *member, &mut random, &mut known),
            )
            .await;
            // A member that is down, or has closed the connection, gets more later.
            drop(said);
        }
        sleep(PAUSE).await;
    }
}

/// Sends a burst to a member, over a separate connection.
async fn tell(
    keypair: &Keypair,
    to: SocketAddr,
    random: &mut Random,
    known: &mut Vec<Vec<u8>>,
) -> Result<()> {
    let mut transport = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair)?)
        .multiplex(yamux::Config::default())
        .boxed();
    let address = Multiaddr::from(to.ip()).with(Protocol::Tcp(to.port()));
    let opts = DialOpts {
        role: Endpoint::Dialer,
        port_use: PortUse::New,
    };
    let (peer, mut muxer) = transport.dial(address, opts)?.await?;
    let id = peer.to_bytes();
    let id = id[id.len().saturating_sub(32)..].to_vec();
    if !known.contains(&id) {
        known.push(id);
    }
    let stream = std::future::poll_fn(|cx| {
        drive(&mut muxer, cx);
        muxer.poll_outbound_unpin(cx)
    })
    .await?;
    let frames: Vec<u8> = (0..BURST)
        .flat_map(|_| frame(&message(random, known)))
        .collect();
    let driven = std::future::poll_fn(|cx| {
        drive(&mut muxer, cx);
        Poll::<()>::Pending
    });
    match select(Box::pin(send(stream, frames)), driven).await {
        Either::Left((sent, _)) => sent,
        Either::Right(_) => bail!("the connection ended"),
    }
}

/// Drives the connection, and refuses the streams of the other side.
fn drive(muxer: &mut StreamMuxerBox, cx: &mut std::task::Context<'_>) {
    while let Poll::Ready(Ok(_)) = muxer.poll_unpin(cx) {}
    while let Poll::Ready(Ok(_)) = muxer.poll_inbound_unpin(cx) {}
}

async fn send(mut stream: SubstreamBox, frames: Vec<u8>) -> Result<()> {
    stream.write_all(CHOICE).await?;
    stream.flush().await?;
    let mut chosen = vec![0; CHOICE.len()];
    stream.read_exact(&mut chosen).await?;
    if chosen != CHOICE {
        bail!("another protocol was chosen");
    }
    stream.write_all(&frames).await?;
    Ok(stream.close().await?)
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], message].concat()
}

/// A message that a member should not believe.
fn message(random: &mut Random, members: &[Vec<u8>]) -> Vec<u8> {
    let key = random.bytes(16);
    let number = random.bits();
    let member = members[random.below(members.len().max(1))].clone();
    let message = match random.below(10) {
        0..=2 => Message::Members(about(random, member)),
        3 => Message::Members(made_up(random)),
        4 => Message::Answer(wire::Answer {
            key,
            number,
            reply: Some(wire::answer::Reply::Redirect(member)),
        }),
        5 => Message::Report(wire::Report {
            key,
            number,
            sequence: 0,
            state: Some(wire::report::State::WrongDigest(true)),
        }),
        6 => Message::Announce(wire::Announce {
            forget: u64::MAX,
            add: random.bytes(16 * 512),
            remove: Vec::new(),
        }),
        7 => Message::Resync(wire::Resync { slots: u64::MAX }),
        8 => Message::Holders(wire::Holders {
            number,
            key,
            holders: random.bytes(32 * 32),
            redirect: member,
        }),
        _ => {
            let length = 1 + random.below(512);
            return random.bytes(length);
        }
    };
    let envelope = wire::Envelope {
        message: Some(message),
        on_behalf_of: random.bytes(32),
    };
    envelope.encode_to_vec()
}

/// A message that a member is gone, or has moved, in a made-up incarnation.
fn about(random: &mut Random, member: Vec<u8>) -> wire::MembersMessage {
    let status = [Status::Dead, Status::Left, Status::Suspect, Status::Alive][random.below(4)];
    let update = wire::MemberUpdate {
        id: member,
        incarnation: u32::MAX - u32::from(random.below(2) == 0),
        status: status.into(),
        age_ms: random.bits(),
        router: address(VICTIM),
        registry: address(VICTIM),
        signature: random.bytes(64),
    };
    gossip(vec![update])
}

/// Members that do not exist, each with a valid signature of its own.
fn made_up(random: &mut Random) -> wire::MembersMessage {
    let update = |random: &mut Random| {
        let keypair = Keypair::ed25519_from_bytes(random.bytes(32)).ok()?;
        let id = keypair
            .public()
            .try_into_ed25519()
            .ok()?
            .to_bytes()
            .to_vec();
        let (incarnation, router) = (1_u32, address(VICTIM));
        let length = [0, u8::try_from(router.len()).ok()?];
        let signed = [
            b"peili member 1",
            &id[..],
            &incarnation.to_be_bytes(),
            &length,
            &router,
            &router,
        ];
        Some(wire::MemberUpdate {
            signature: keypair.sign(&signed.concat()).ok()?,
            id,
            incarnation,
            status: Status::Alive.into(),
            age_ms: u64::MAX / 2,
            registry: router.clone(),
            router,
        })
    };
    gossip((0..8).filter_map(|_| update(random)).collect())
}

fn gossip(updates: Vec<wire::MemberUpdate>) -> wire::MembersMessage {
    let list = wire::List {
        members: u32::MAX,
        whole_buckets: u64::MAX,
    };
    wire::MembersMessage {
        updates,
        kind: Some(Kind::List(list)),
    }
}

/// The form in members' records: the length of the IP address, the address, the port.
fn address(address: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(address) = address else {
        return Vec::new();
    };
    let port = address.port().to_be_bytes();
    [&[4][..], &address.ip().octets(), &port].concat()
}
