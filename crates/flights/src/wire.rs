//! Encodes and decodes the messages of `proto/flights.proto`, and gives their fields the types of this crate.
//!
//! Keys and nodes are bytes in these messages. [`Message::from_datagram`] checks their lengths once, so what reads them
//! afterwards need not.

use std::time::Duration;

use bytes::{Buf, Bytes};
use prost::Message as _;

use crate::outbox::Passed;
use crate::{Key, NodeId};

#[cfg(test)]
pub(crate) mod tests;

pub(crate) mod generated {
    include!(concat!(env!("OUT_DIR"), "/peili.flights.rs"));
}

pub use generated::SourceRequest;
pub(crate) use generated::answer::Reply;
pub(crate) use generated::envelope::Message;
pub(crate) use generated::report::State as PullState;
pub(crate) use generated::{
    Alive, Announce, Answer, FindHolders, Follow, Holders, KnownRate, RegistryRate, Renew, Report,
    Resync, Wait, Withdraw,
};

/// The most bytes of a datagram, sent or received.
pub const MAX_DATAGRAM: usize = 64 * 1024 + 16;
/// The most keys in one message, so that it stays below [`MAX_DATAGRAM`].
pub(crate) const MAX_KEYS: usize = 3_072;
/// The most nodes named in one message.
pub(crate) const MAX_NODES: usize = 32;
/// The largest [`SourceRequest::requeue_after_ms`] of another node.
const MAX_REQUEUE_AFTER_MS: u32 = 2_000;
/// The largest [`SourceRequest::concurrent_objects`] of another node.
const MAX_CONCURRENT: u32 = 8;

/// A datagram that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It exceeds [`MAX_DATAGRAM`].
    #[error("a datagram of {0} bytes, more than {MAX_DATAGRAM}")]
    TooLong(usize),
    /// It is not valid protobuf.
    #[error(transparent)]
    Protobuf(#[from] prost::DecodeError),
    /// It holds no message that this version knows.
    #[error("an empty message, or one of a later version")]
    Unknown,
    /// A field is missing or has a wrong length.
    #[error("{0} is missing or malformed")]
    Field(&'static str),
    /// A record is not signed by its member.
    #[error("the record of the member {0} has a false signature")]
    Signature(NodeId),
}

/// Identifies a request of a node. Requests with the same random number are the same.
#[derive(Clone, Copy, Debug, Default, Eq)]
pub(crate) struct RequestNumber {
    /// Known only to the node and to the owners that it asked.
    pub random: u64,
    /// The upper half identifies the process, the lower half counts.
    pub sequence: u64,
}

impl PartialEq for RequestNumber {
    fn eq(&self, other: &Self) -> bool {
        self.random == other.random
    }
}

impl RequestNumber {
    /// Whether this request is earlier than another one of the same process.
    pub fn is_earlier(self, than: Self) -> bool {
        self.sequence >> 32 == than.sequence >> 32 && self.sequence < than.sequence
    }
}

impl Message {
    pub fn into_datagram(self, on_behalf_of: Option<NodeId>) -> Bytes {
        let envelope = generated::Envelope {
            on_behalf_of: node_field(on_behalf_of),
            message: Some(self),
        };
        envelope.encode_to_vec().into()
    }

    /// The message, and the node that it was sent on behalf of. Given [`Bytes`], its fields keep the whole datagram in
    /// memory.
    ///
    /// # Errors
    /// The bytes are no message that this version knows, or a field is malformed.
    pub fn from_datagram(bytes: impl Buf) -> Result<Passed, DecodeError> {
        if bytes.remaining() > MAX_DATAGRAM {
            return Err(DecodeError::TooLong(bytes.remaining()));
        }
        let envelope = generated::Envelope::decode(bytes)?;
        check_node(&envelope.on_behalf_of, "on_behalf_of")?;
        let mut message = envelope.message.ok_or(DecodeError::Unknown)?;
        message.check()?;
        Ok((node(&envelope.on_behalf_of), message))
    }

    /// Checks what protobuf does not: the lengths of fields.
    fn check(&mut self) -> Result<(), DecodeError> {
        match self {
            // Checked as it is applied (`crate::members`).
            Self::Members(_) => Ok(()),
            Self::Announce(announce) => {
                check_list(&announce.add, 16, MAX_KEYS, "add")?;
                check_list(&announce.remove, 16, MAX_KEYS, "remove")
            }
            Self::Renew(renew) if renew.hashes.len() == renew.slots.count_ones() as usize => Ok(()),
            Self::Renew(_) => Err(DecodeError::Field("hashes")),
            Self::Resync(_) => Ok(()),
            Self::SourceRequest(request) => request.check(),
            Self::Withdraw(withdraw) => check_key(&withdraw.key),
            Self::Answer(answer) => {
                check_key(&answer.key)?;
                answer
                    .reply
                    .as_ref()
                    .map_or(Err(DecodeError::Field("reply")), check_reply)
            }
            Self::Report(report) => {
                check_key(&report.key)?;
                match report.state.as_ref().ok_or(DecodeError::Field("state"))? {
                    PullState::Alive(alive) => check_node(&alive.source, "source"),
                    _ => Ok(()),
                }
            }
            Self::FindHolders(find) => check_key(&find.key),
            Self::Holders(found) => {
                check_list(&found.key, 16, 1, "key")?;
                check_list(&found.holders, 32, MAX_NODES, "holders")?;
                check_node(&found.redirect, "redirect")
            }
            Self::RegistryRate(_) => Ok(()),
        }
    }
}

fn check_reply(reply: &Reply) -> Result<(), DecodeError> {
    match reply {
        Reply::Follow(follow) if follow.source.is_empty() => Err(DecodeError::Field("source")),
        Reply::Follow(follow) => {
            check_node(&follow.source, "source")?;
            check_node(&follow.leader, "leader")
        }
        Reply::Wait(wait) => check_node(&wait.leader, "leader"),
        Reply::Redirect(to) if to.is_empty() => Err(DecodeError::Field("redirect")),
        Reply::Redirect(to) => check_node(to, "redirect"),
        Reply::Lead(_) | Reply::Alone(_) | Reply::Later(_) => Ok(()),
    }
}

fn check_key(bytes: &Bytes) -> Result<(), DecodeError> {
    (bytes.len() == 16)
        .then_some(())
        .ok_or(DecodeError::Field("key"))
}

pub(crate) fn check_node(bytes: &Bytes, name: &'static str) -> Result<(), DecodeError> {
    check_list(bytes, 32, 1, name)
}

/// Checks that a field holds whole items of `size` bytes, `most` of them at most.
fn check_list(
    bytes: &Bytes,
    size: usize,
    most: usize,
    name: &'static str,
) -> Result<(), DecodeError> {
    let is_sound = bytes.len().is_multiple_of(size) && bytes.len() <= size * most;
    is_sound.then_some(()).ok_or(DecodeError::Field(name))
}

/// The key in a checked field.
pub(crate) fn key(bytes: &Bytes) -> Key {
    Key(bytes.as_ref().try_into().unwrap_or_default())
}

/// The keys in a checked field.
pub(crate) fn keys(bytes: &Bytes) -> Vec<Key> {
    let (keys, _) = bytes.as_chunks::<16>();
    keys.iter().map(|key| Key(*key)).collect()
}

/// The node in a checked field, if it is set.
pub(crate) fn node(bytes: &Bytes) -> Option<NodeId> {
    bytes.as_ref().try_into().ok().map(NodeId)
}

/// The nodes in a checked field.
pub(crate) fn nodes(bytes: &Bytes) -> impl DoubleEndedIterator<Item = NodeId> {
    let (nodes, _) = bytes.as_chunks::<32>();
    nodes.iter().map(|node| NodeId(*node))
}

pub(crate) fn key_field(key: Key) -> Bytes {
    Bytes::copy_from_slice(&key.0)
}

pub(crate) fn keys_field(keys: &[Key]) -> Bytes {
    keys.iter().flat_map(|key| key.0).collect()
}

/// Encodes an optional node as a field of a [`SourceRequest`].
pub fn node_field(node: Option<NodeId>) -> Bytes {
    node.map_or(Bytes::new(), |node| Bytes::copy_from_slice(&node.0))
}

/// Encodes nodes as a field of a [`SourceRequest`]: the first 32.
pub fn nodes_field(nodes: impl IntoIterator<Item = NodeId>) -> Bytes {
    let nodes = nodes.into_iter().take(MAX_NODES);
    nodes.flat_map(|node| node.0).collect()
}

/// The hash by which messages name a registry.
pub fn registry_hash(registry: &str) -> u64 {
    Key::of(registry).hash()
}

impl SourceRequest {
    /// A request for an object, by its digest or tag and where it is pulled from: the registry, and the repository with
    /// its registry (`registry/repository`).
    pub fn new(name: &str, origin: Option<(&str, &str)>) -> Self {
        let hash = |text: &str| Key::of(text).hash();
        Self {
            registry: origin.map_or(0, |(registry, _)| registry_hash(registry)),
            repository: origin.map_or(0, |(_, repository)| hash(repository)),
            ..Self::of_key(Key::of(name))
        }
    }

    /// A request for an object of which nothing is known.
    pub fn of_key(key: Key) -> Self {
        Self {
            key: key_field(key),
            concurrent_objects: 1,
            ..Self::default()
        }
    }

    /// The key of the object.
    pub fn key(&self) -> Key {
        key(&self.key)
    }

    /// Identifies the request.
    pub(crate) fn request_number(&self) -> RequestNumber {
        RequestNumber {
            random: self.number,
            sequence: self.sequence,
        }
    }

    /// The node that should lead, if no node leads yet.
    pub fn preferred_leader(&self) -> Option<NodeId> {
        node(&self.preferred_leader)
    }

    /// The owner that did not answer.
    pub(crate) fn silent_owner(&self) -> Option<NodeId> {
        node(&self.silent_owner)
    }

    /// Whether the sender leads or fetches other objects.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_fetcher || self.leads
    }

    /// A source that sends far less than it has.
    pub fn slow_source(&self) -> Option<NodeId> {
        node(&self.slow_source)
    }

    /// Nodes that failed as a source, latest first.
    pub fn failed_sources(&self) -> impl DoubleEndedIterator<Item = NodeId> {
        nodes(&self.failed_sources)
    }

    /// Complete holders that send several objects already.
    pub(crate) fn busy_sources(&self) -> impl DoubleEndedIterator<Item = NodeId> {
        nodes(&self.busy_sources)
    }

    /// Adds a node that failed as a source.
    pub fn add_failed_source(&mut self, node: NodeId) {
        let failed = [node].into_iter().chain(self.failed_sources());
        self.failed_sources = nodes_field(failed);
    }

    /// The time after which the client should rather retry later ([`Decision::Later`](crate::Decision)).
    pub fn requeue_after(&self) -> Option<Duration> {
        let millis = self.requeue_after_ms;
        (millis > 0).then(|| Duration::from_millis(millis.into()))
    }

    fn check(&mut self) -> Result<(), DecodeError> {
        check_key(&self.key)?;
        check_node(&self.preferred_leader, "preferred_leader")?;
        check_list(&self.failed_sources, 32, MAX_NODES, "failed_sources")?;
        check_list(&self.busy_sources, 32, MAX_NODES, "busy_sources")?;
        check_node(&self.silent_owner, "silent_owner")?;
        check_node(&self.slow_source, "slow_source")?;
        self.concurrent_objects = self.concurrent_objects.clamp(1, MAX_CONCURRENT);
        self.requeue_after_ms = self.requeue_after_ms.min(MAX_REQUEUE_AFTER_MS);
        Ok(())
    }
}

impl Message {
    /// The key that a message is about, if it is about one.
    pub fn key(&self) -> Option<Key> {
        match self {
            Self::SourceRequest(request) => Some(request.key()),
            Self::Withdraw(withdraw) => Some(key(&withdraw.key)),
            Self::Report(report) => Some(key(&report.key)),
            Self::FindHolders(find) => Some(key(&find.key)),
            Self::Holders(found) => Some(key(&found.key)),
            Self::Members(_)
            | Self::Announce(_)
            | Self::Renew(_)
            | Self::Resync(_)
            | Self::Answer(_)
            | Self::RegistryRate(_) => None,
        }
    }

    pub fn withdraw(key: Key, number: u64) -> Self {
        let key = key_field(key);
        Self::Withdraw(Withdraw { key, number })
    }

    pub fn answer(key: Key, number: u64, reply: Reply) -> Self {
        let (key, reply) = (key_field(key), Some(reply));
        Self::Answer(Answer { key, number, reply })
    }

    pub fn report(key: Key, number: RequestNumber, state: PullState) -> Self {
        Self::Report(Report {
            key: key_field(key),
            number: number.random,
            sequence: number.sequence,
            state: Some(state),
        })
    }
}
