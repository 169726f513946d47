//! What is known about a member.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::Born;
use crate::random::mix;

/// The most addresses of one kind: IPv4 and IPv6 of two interfaces.
pub const MAX_ADDRESSES: usize = 4;
/// The most bytes of a zone's name: the limit of Kubernetes label values, where zones come from.
pub const MAX_ZONE: usize = 63;

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

/// The addresses and the zone of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    router: Vec<SocketAddr>,
    registry: Vec<SocketAddr>,
    zone: Option<String>,
}

/// A contact that other nodes would reject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContactError {
    /// There are too many addresses.
    #[error("more than {MAX_ADDRESSES} addresses of one kind: announce fewer")]
    Addresses,
    #[error(
        "a zone is 1 to {MAX_ZONE} bytes of letters, digits, '-', '_' and '.', as the value of a Kubernetes label"
    )]
    /// The zone's name is no label value.
    Zone,
}

impl Contact {
    /// A contact with the addresses of router and registry, best first, and the zone if known. Scope and flow label of
    /// IPv6 addresses are dropped.
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

    /// The addresses of the router, best first.
    pub fn router(&self) -> &[SocketAddr] {
        &self.router
    }

    /// The addresses of the registry, best first.
    pub fn registry(&self) -> &[SocketAddr] {
        &self.registry
    }

    /// The zone, if known.
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
    /// The member's id.
    pub id: NodeId,
    /// Its addresses and zone.
    pub contact: Arc<Contact>,
    /// Raised only by the member itself, when others believe something wrong about it. Higher is newer.
    pub incarnation: u32,
    /// When it joined the cluster. A restarted process joins again; one that was wrongly declared dead does not.
    pub born: Born,
}
