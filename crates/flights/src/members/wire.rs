//! The messages of the membership, and their encoding.
//!
//! A message is one byte for its kind, the fields of that kind, and updates about members up to the end. Numbers are
//! varints (LEB128) unless noted. The sender is not named: the transport authenticates it.

mod read;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::member::{Contact, NodeId};
use crate::time::millis;

pub use read::DecodeError;
pub(super) use read::decode;

/// The most bytes of a message, sent or received.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The number of buckets. Lists of members are compared by one hash for each bucket.
pub(super) const BUCKETS: usize = 64;

/// One hash for each bucket, over its members. Equal lists have equal hashes.
pub(super) type Digest = [u64; BUCKETS];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A probe, answered by [`Kind::Ack`] with the same number.
    Ping {
        number: u32,
    },
    Ack {
        number: u32,
    },
    /// Asks the recipient to probe `target` and to pass the answer on under this number.
    PingFor {
        target: NodeId,
        number: u32,
    },
    /// Updates only.
    Gossip,
    /// Compares lists. The answer has what differs; a `joining` node gets an answer in any case.
    Sync {
        joining: bool,
        digest: Box<Digest>,
    },
    /// One of `parts` messages that answer [`Kind::Sync`], with everything in the buckets of `whole` (one bit each); or
    /// the answer to such an answer (`whole` = 0). Deaths in it may be outdated.
    List {
        parts: u8,
        whole: u64,
    },
}

/// What is claimed about a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    Alive {
        contact: Arc<Contact>,
        age: Duration,
    },
    Suspect,
    Down,
    /// It has announced that it leaves.
    Left,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemberUpdate {
    pub(super) id: NodeId,
    pub(super) incarnation: u32,
    pub(super) claim: Claim,
}

/// A message under construction.
#[derive(Clone)]
pub(super) struct Message(BytesMut);

impl Message {
    pub(super) fn new(kind: &Kind) -> Self {
        let mut buf = BytesMut::with_capacity(64);
        match kind {
            Kind::Ping { number } => {
                buf.put_u8(1);
                put_varint(&mut buf, u64::from(*number));
            }
            Kind::Ack { number } => {
                buf.put_u8(2);
                put_varint(&mut buf, u64::from(*number));
            }
            Kind::PingFor { target, number } => {
                buf.put_u8(3);
                buf.put_slice(&target.0);
                put_varint(&mut buf, u64::from(*number));
            }
            Kind::Gossip => buf.put_u8(4),
            Kind::Sync { joining, digest } => {
                buf.put_u8(5);
                buf.put_u8(u8::from(*joining));
                digest.iter().for_each(|hash| buf.put_u64_le(*hash));
            }
            Kind::List { parts, whole } => {
                buf.put_u8(6);
                buf.put_u8(*parts);
                buf.put_u64_le(*whole);
            }
        }
        Self(buf)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds an update, unless the message would exceed `limit` bytes.
    pub(super) fn push(&mut self, update: &MemberUpdate, limit: usize) -> bool {
        let before = self.0.len();
        put_update(&mut self.0, update);
        let fits = self.0.len() <= limit.min(MAX_MESSAGE);
        if !fits {
            self.0.truncate(before);
        }
        fits
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

fn put_update(buf: &mut BytesMut, update: &MemberUpdate) {
    buf.put_slice(&update.id.0);
    buf.put_u8(match update.claim {
        Claim::Alive { .. } => 0,
        Claim::Suspect => 1,
        Claim::Down => 2,
        Claim::Left => 3,
    });
    put_varint(buf, u64::from(update.incarnation));
    if let Claim::Alive { contact, age } = &update.claim {
        put_varint(buf, millis(*age));
        put_addresses(buf, contact.router());
        put_addresses(buf, contact.registry());
        let zone = contact.zone().unwrap_or_default();
        put_varint(buf, zone.len() as u64);
        buf.put_slice(zone.as_bytes());
    }
}

/// A count; for each address 4 or 6, the address, and the port, big-endian.
fn put_addresses(buf: &mut BytesMut, addresses: &[SocketAddr]) {
    put_varint(buf, addresses.len() as u64);
    for address in addresses {
        match address.ip() {
            IpAddr::V4(ip) => {
                buf.put_u8(4);
                buf.put_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                buf.put_u8(6);
                buf.put_slice(&ip.octets());
            }
        }
        buf.put_u16(address.port());
    }
}

fn put_varint(buf: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        buf.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    buf.put_u8(number as u8);
}
