//! What is known of a member.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::Born;
use crate::random::mix;

/// Addresses of one kind that a member may have: IPv4 and IPv6 of two interfaces.
pub const MAX_ADDRESSES: usize = 4;
/// Bytes of a zone's name: that of a Kubernetes label value, where zones come from.
pub const MAX_ZONE: usize = 63;

/// A node: its Ed25519 public key, which its libp2p peer id is made of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// 64 well-mixed bits of it. The same on every platform and in every version: owners follow from it.
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

/// How others reach a member, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    router: Vec<SocketAddr>,
    registry: Vec<SocketAddr>,
    zone: Option<String>,
}

/// A contact that others would refuse to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContactError {
    #[error("more than {MAX_ADDRESSES} addresses of one kind: announce fewer")]
    Addresses,
    #[error(
        "a zone is 1 to {MAX_ZONE} bytes of letters, digits, '-', '_' and '.', as the value of a Kubernetes label"
    )]
    Zone,
}

impl Contact {
    /// The addresses of the router and of the registry, best first, and the zone where the node knows it.
    /// Of an IPv6 address scope and flow label are not told to others.
    pub fn new(
        router: Vec<SocketAddr>,
        registry: Vec<SocketAddr>,
        zone: Option<String>,
    ) -> Result<Self, ContactError> {
        if router.len() > MAX_ADDRESSES || registry.len() > MAX_ADDRESSES {
            return Err(ContactError::Addresses);
        }
        if zone.as_deref().is_some_and(|zone| !is_zone(zone)) {
            return Err(ContactError::Zone);
        }
        Ok(Self {
            router,
            registry,
            zone,
        })
    }

    pub fn router(&self) -> &[SocketAddr] {
        &self.router
    }

    pub fn registry(&self) -> &[SocketAddr] {
        &self.registry
    }

    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }
}

fn is_zone(zone: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=MAX_ZONE).contains(&zone.len()) && zone.bytes().all(plain)
}

/// A member as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: NodeId,
    pub contact: Arc<Contact>,
    /// Raised by the member alone, whenever others hold something about it that is not so. Higher is newer.
    pub incarnation: u32,
    /// When it entered the cluster. A restarted process enters anew; one that was falsely taken for dead does not.
    pub born: Born,
}
