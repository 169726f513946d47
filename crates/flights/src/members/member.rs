//! What is known about a member.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::Born;
use crate::random::mix;

/// The most addresses of one kind: IPv4 and IPv6 of two interfaces.
pub const MAX_ADDRESSES: usize = 4;

/// A node, identified by its Ed25519 public key, from which its libp2p peer id is derived.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// A well-mixed hash of 64 bits. It must be the same on every platform and in every version, as owners follow from
    /// it.
    pub(crate) fn hash(&self) -> u64 {
        let words = self.0.chunks_exact(8);
        words.fold(0, |hash, word| {
            let word = word
                .iter()
                .rev()
                .fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
            mix(hash ^ word)
        })
    }
}

impl fmt::Display for NodeId {
    /// The first eight bytes: enough to tell the nodes of a cluster apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take(8)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// The sender of a message.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// Its id, as authenticated by the transport.
    pub id: NodeId,
    /// Where the transport has seen it. One host is a bounded number of members, of those that introduce themselves or
    /// answer a probe. `None`: it may be any number.
    pub host: Option<IpAddr>,
}

impl From<NodeId> for Sender {
    fn from(id: NodeId) -> Self {
        Self { id, host: None }
    }
}

/// The addresses of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    router: Vec<SocketAddr>,
    registry: Vec<SocketAddr>,
}

impl Contact {
    /// The addresses of router and registry, best first: the first [`MAX_ADDRESSES`] of each. Scope and flow label of
    /// IPv6 addresses are not passed on to other members.
    pub fn new(mut router: Vec<SocketAddr>, mut registry: Vec<SocketAddr>) -> Self {
        router.truncate(MAX_ADDRESSES);
        registry.truncate(MAX_ADDRESSES);
        Self { router, registry }
    }

    /// The addresses of the router, best first.
    pub fn router(&self) -> &[SocketAddr] {
        &self.router
    }

    /// The addresses of the registry, best first.
    pub fn registry(&self) -> &[SocketAddr] {
        &self.registry
    }
}

/// A member as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member's id.
    pub id: NodeId,
    /// Its addresses.
    pub contact: Arc<Contact>,
    /// Raised only by the member itself, when others believe something wrong about it. A higher one is newer.
    pub incarnation: u32,
    /// When it joined the cluster. A restarted process joins again; one that was wrongly declared dead does not.
    pub born: Born,
}
