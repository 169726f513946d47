//! Messages of the membership: reads and writes what `proto/members.proto` defines.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::member::{Contact, MAX_ADDRESSES, Member};
use super::roster::BUCKETS;
use super::signatures::Signature;
use crate::time::millis;
use crate::wire::{MAX_DATAGRAM, Message, check_node, node, node_field};
use crate::{Born, DecodeError, Time};

#[cfg(test)]
pub(crate) mod tests;

pub(super) use crate::wire::generated::member_update::Status;
pub(super) use crate::wire::generated::members_message::Kind;
pub(super) use crate::wire::generated::{List, MemberUpdate, MembersMessage, Probe, Sync};

/// The most bytes of a message, without the envelope.
pub(super) const MAX_MESSAGE: usize = MAX_DATAGRAM - 16;

/// The first bytes of what is signed for a record, so that the signature is valid for nothing else.
const SIGNED_AS: &[u8] = b"peili member 1";

/// A claim about a member, with the signature of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(super) member: Member,
    pub(super) status: Status,
    pub(super) signature: Signature,
}

/// What a member signs: see the field `signature` in `proto/members.proto`.
pub(super) fn signed_bytes(member: &Member, leaves: bool) -> Vec<u8> {
    let router = address_field(member.contact.router());
    let registry = address_field(member.contact.registry());
    let incarnation = member.incarnation.to_be_bytes();
    // At most 76 bytes.
    let length = u8::try_from(router.len()).unwrap_or(u8::MAX);
    let marks = [u8::from(leaves), length];
    let parts: [&[u8]; 6] = [
        SIGNED_AS,
        &member.id.0,
        &incarnation,
        &marks,
        &router,
        &registry,
    ];
    parts.concat()
}

impl Status {
    pub(super) fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

impl MemberUpdate {
    pub(super) fn new(now: Time, member: &Member, status: Status, signature: &Signature) -> Self {
        Self {
            id: node_field(Some(member.id)),
            incarnation: member.incarnation,
            status: status.into(),
            age_ms: millis(member.born.age(now)),
            router: address_field(member.contact.router()),
            registry: address_field(member.contact.registry()),
            signature: Bytes::copy_from_slice(signature),
        }
    }

    /// The record and its status. The signature is not verified yet.
    fn read(&self, now: Time) -> Result<Claim, DecodeError> {
        let member = Member {
            id: node(&self.id).ok_or(DecodeError::Field("id"))?,
            contact: Arc::new(Contact::new(
                addresses(&self.router, "router")?,
                addresses(&self.registry, "registry")?,
            )),
            incarnation: self.incarnation,
            born: Born::from_age(now, Duration::from_millis(self.age_ms)),
        };
        let status = Status::try_from(self.status).map_err(|_| DecodeError::Field("status"))?;
        let signature = self.signature.as_ref().try_into();
        Ok(Claim {
            member,
            status,
            signature: signature.map_err(|_| DecodeError::Field("signature"))?,
        })
    }
}

impl MembersMessage {
    /// Checks what protobuf does not, and gives the updates the types of this crate.
    pub(super) fn read(self, now: Time) -> Result<(Option<Kind>, Vec<Claim>), DecodeError> {
        match &self.kind {
            Some(Kind::Ping(probe) | Kind::Ack(probe)) => {
                check_node(&probe.target, "target")?;
                check_node(&probe.origin, "origin")?;
            }
            Some(Kind::Sync(sync)) if sync.bucket_hashes.len() != BUCKETS => {
                return Err(DecodeError::Field("bucket_hashes"));
            }
            Some(Kind::Sync(_) | Kind::List(_)) | None => {}
        }
        let claims = self.updates.iter().map(|update| update.read(now));
        let claims = claims.collect::<Result<_, _>>()?;
        Ok((self.kind, claims))
    }
}

/// A message under construction.
pub(super) struct Draft {
    message: MembersMessage,
    len: usize,
}

impl Draft {
    /// A message without updates. `None`: gossip.
    pub(super) fn new(kind: Option<Kind>) -> Self {
        let message = MembersMessage {
            kind,
            updates: Vec::new(),
        };
        let len = message.encoded_len();
        Self { message, len }
    }

    /// Adds an update, unless the message would exceed `limit` or [`MAX_MESSAGE`] bytes. Returns whether it fits.
    pub(super) fn push(&mut self, update: MemberUpdate, limit: usize) -> bool {
        let len = update.encoded_len();
        // A field number below 16 takes one byte.
        let len = self.len + 1 + prost::length_delimiter_len(len) + len;
        let fits = len <= limit.min(MAX_MESSAGE);
        if fits {
            self.message.updates.push(update);
            self.len = len;
        }
        fits
    }

    /// Replaces the kind by one that is not longer.
    pub(super) fn with_kind(mut self, kind: Option<Kind>) -> Self {
        self.message.kind = kind;
        self
    }

    pub(super) fn has_updates(&self) -> bool {
        !self.message.updates.is_empty()
    }

    pub(super) fn finish(self) -> Bytes {
        Message::Members(self.message).into_datagram(None)
    }
}

fn address_field(addresses: &[SocketAddr]) -> Bytes {
    let mut field = Vec::with_capacity(addresses.len() * 19);
    for address in addresses {
        match address.ip() {
            IpAddr::V4(ip) => {
                field.push(4);
                field.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                field.push(16);
                field.extend(ip.octets());
            }
        }
        field.extend(address.port().to_be_bytes());
    }
    field.into()
}

fn addresses(mut field: &[u8], name: &'static str) -> Result<Vec<SocketAddr>, DecodeError> {
    let mut addresses = Vec::new();
    while !field.is_empty() {
        let (address, rest) = address(field).ok_or(DecodeError::Field(name))?;
        if addresses.len() == MAX_ADDRESSES {
            return Err(DecodeError::Field(name));
        }
        addresses.push(address);
        field = rest;
    }
    Ok(addresses)
}

/// The first address of a field, and the rest of the field.
fn address(field: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (length, rest) = field.split_first()?;
    let (ip, rest): (IpAddr, _) = match length {
        4 => rest
            .split_first_chunk::<4>()
            .map(|(ip, rest)| ((*ip).into(), rest))?,
        16 => rest
            .split_first_chunk::<16>()
            .map(|(ip, rest)| ((*ip).into(), rest))?,
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), rest))
}
