//! Decodes messages. No size from the wire allocates memory before it is checked, and no input panics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{BUCKETS, Claim, Kind, MAX_MESSAGE, MemberUpdate};
use crate::members::member::{Contact, ContactError, MAX_ADDRESSES, MAX_ZONE, NodeId};

/// A membership message that cannot be decoded: its sender runs another version, or is no node of Peili.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It exceeds [`MAX_MESSAGE`].
    #[error("message of {0} bytes, more than {MAX_MESSAGE}")]
    TooLong(usize),
    /// It ends within a field.
    #[error("message ends in the middle of a field")]
    Truncated,
    /// Its kind is unknown.
    #[error("unknown kind of message {0}")]
    Kind(u8),
    /// A claim in it is unknown.
    #[error("unknown claim {0} about a member")]
    Claim(u8),
    /// The kind of an address is unknown.
    #[error("unknown kind of address {0}")]
    Address(u8),
    /// A number is out of range.
    #[error("number out of its range")]
    Number,
    /// The contact of a member is malformed.
    #[error("the contact of a member is malformed")]
    Contact(#[source] ContactError),
}

pub(in crate::members) fn decode(message: &[u8]) -> Result<(Kind, Vec<MemberUpdate>), DecodeError> {
    if message.len() > MAX_MESSAGE {
        return Err(DecodeError::TooLong(message.len()));
    }
    let mut input = Input(message);
    let kind = kind(&mut input)?;
    let mut updates = Vec::new();
    while !input.0.is_empty() {
        updates.push(one(&mut input)?);
    }
    Ok((kind, updates))
}

fn kind(input: &mut Input<'_>) -> Result<Kind, DecodeError> {
    Ok(match input.byte()? {
        1 => Kind::Ping {
            number: input.number()?,
        },
        2 => Kind::Ack {
            number: input.number()?,
        },
        3 => Kind::PingFor {
            target: NodeId(input.array()?),
            number: input.number()?,
        },
        4 => Kind::Gossip,
        5 => {
            let joining = input.byte()? != 0;
            let mut digest = Box::new([0; BUCKETS]);
            for hash in digest.iter_mut() {
                *hash = u64::from_le_bytes(input.array()?);
            }
            Kind::Sync { joining, digest }
        }
        6 => Kind::List {
            parts: input.byte()?,
            whole: u64::from_le_bytes(input.array()?),
        },
        other => return Err(DecodeError::Kind(other)),
    })
}

fn one(input: &mut Input<'_>) -> Result<MemberUpdate, DecodeError> {
    let id = NodeId(input.array()?);
    let claim = input.byte()?;
    let incarnation = input.number()?;
    let claim = match claim {
        0 => Claim::Alive {
            age: Duration::from_millis(input.varint()?),
            contact: Arc::new(contact(input)?),
        },
        1 => Claim::Suspect,
        2 => Claim::Down,
        3 => Claim::Left,
        other => return Err(DecodeError::Claim(other)),
    };
    Ok(MemberUpdate {
        id,
        incarnation,
        claim,
    })
}

fn contact(input: &mut Input<'_>) -> Result<Contact, DecodeError> {
    let router = addresses(input)?;
    let registry = addresses(input)?;
    let zone = match input.number()? as usize {
        0 => None,
        length if length > MAX_ZONE => return Err(DecodeError::Contact(ContactError::Zone)),
        length => Some(String::from_utf8_lossy(input.take(length)?).into_owned()),
    };
    Contact::new(router, registry, zone).map_err(DecodeError::Contact)
}

fn addresses(input: &mut Input<'_>) -> Result<Vec<SocketAddr>, DecodeError> {
    let count = input.number()? as usize;
    if count > MAX_ADDRESSES {
        return Err(DecodeError::Contact(ContactError::Addresses));
    }
    let address = |_| {
        let ip = match input.byte()? {
            4 => IpAddr::V4(Ipv4Addr::from(input.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(input.array::<16>()?)),
            other => return Err(DecodeError::Address(other)),
        };
        Ok(SocketAddr::new(ip, u16::from_be_bytes(input.array()?)))
    };
    (0..count).map(address).collect()
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::Truncated)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u32, DecodeError> {
        self.varint()?.try_into().map_err(|_| DecodeError::Number)
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Number);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Number)
    }
}
