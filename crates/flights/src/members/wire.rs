//! What members say to each other, and its encoding.
//!
//! One byte of kind, the kind's own fields, then news about members up to the end of the message. Numbers are varints
//! (LEB128) unless noted. The sender is not named: the transport has authenticated it.

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

/// Bytes of a message at most, sent or taken.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Parts of the key space whose lists of members are compared by hash.
pub(super) const BUCKETS: usize = 64;

/// A hash over the members of each bucket: equal lists, equal hashes.
pub(super) type Digest = [u64; BUCKETS];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Are you there? Answered by [`Kind::Ack`] with the same number.
    Ping {
        number: u32,
    },
    Ack {
        number: u32,
    },
    /// Ping `target` for me, and pass its answer on under my number.
    PingFor {
        target: NodeId,
        number: u32,
    },
    /// Only the news.
    Gossip,
    /// This is my list: tell me what differs, or all the same if I am `joining`.
    Sync {
        joining: bool,
        digest: Box<Digest>,
    },
    /// One of `parts` messages of an answer to [`Kind::Sync`], all that the sender knows of the buckets in `whole` (a
    /// bit each), or the answer to such an answer (`whole` = 0). What it says of deaths may be old.
    List {
        parts: u8,
        whole: u64,
    },
}

/// What is told of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    Alive {
        contact: Arc<Contact>,
        age: Duration,
    },
    Suspect,
    Down,
    /// It said so itself.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
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

    /// Adds `news`, unless the message would then be longer than `limit` bytes: then it stays as it was.
    pub(super) fn push(&mut self, news: &News, limit: usize) -> bool {
        let before = self.0.len();
        put_news(&mut self.0, news);
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

fn put_news(buf: &mut BytesMut, news: &News) {
    buf.put_slice(&news.id.0);
    buf.put_u8(match news.claim {
        Claim::Alive { .. } => 0,
        Claim::Suspect => 1,
        Claim::Down => 2,
        Claim::Gone => 3,
    });
    put_varint(buf, u64::from(news.incarnation));
    if let Claim::Alive { contact, age } = &news.claim {
        put_varint(buf, millis(*age));
        put_addresses(buf, contact.router());
        put_addresses(buf, contact.registry());
        let zone = contact.zone().unwrap_or_default();
        put_varint(buf, zone.len() as u64);
        buf.put_slice(zone.as_bytes());
    }
}

/// A count, then for each 4 or 6, the address and the port, big-endian.
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
