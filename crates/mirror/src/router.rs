//! The trait by which the mirror finds the peers that have an object, and its answers.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use oci::Key;
use tokio::sync::mpsc;

use ::flights::NodeId;

use crate::Health;

/// A node of the cluster, by a name that does not change with its addresses: for libp2p its peer id.
///
/// Two are equal if their names are.
#[derive(Clone)]
pub struct PeerId {
    name: Arc<str>,
    node: Option<NodeId>,
}

impl PeerId {
    /// A peer that takes part in no flights.
    pub fn new(name: &str) -> Self {
        let (name, node) = (name.into(), None);
        Self { name, node }
    }

    /// A peer that takes part in flights.
    pub fn of_node(name: &str, node: NodeId) -> Self {
        let (name, node) = (name.into(), Some(node));
        Self { name, node }
    }

    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The peer's id in flights, if it takes part in them.
    pub fn node(&self) -> Option<NodeId> {
        self.node
    }
}

impl PartialEq for PeerId {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for PeerId {}

impl Hash for PeerId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl PartialOrd for PeerId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PeerId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A peer that may have the requested content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub peer: PeerId,
    /// The addresses of the peer's registry, IPv4 and IPv6, in no order. Never empty.
    pub addresses: Arc<[SocketAddr]>,
}

/// Candidates as they are found. The stream ends when all nodes that could know have answered; dropping it ends the
/// search.
#[derive(Debug)]
pub struct Search(mpsc::Receiver<Candidate>);

impl Search {
    /// A search and its sending end. Closing the sender ends the search.
    pub fn channel() -> (mpsc::Sender<Candidate>, Self) {
        let (sender, receiver) = mpsc::channel(SEARCH_QUEUE);
        (sender, Self(receiver))
    }

    pub async fn next(&mut self) -> Option<Candidate> {
        self.0.recv().await
    }
}

/// The most queued candidates of a search. A request needs a handful.
const SEARCH_QUEUE: usize = 32;

/// A peer as the router knows it, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterPeer {
    pub peer: PeerId,
    /// The known addresses of its registry.
    pub addresses: Arc<[SocketAddr]>,
    /// The known addresses of its router.
    pub routers: Arc<[SocketAddr]>,
    /// The name of its node and its version of Peili, as it reports them. `None`: it was never connected to, or runs
    /// another program.
    pub name: Option<String>,
    pub version: Option<String>,
    pub membership: PeerMembership,
}

/// The state of a peer for the members of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMembership {
    Member,
    /// It does not answer, and is declared dead unless it does soon.
    Suspected,
    /// It does not take part in flights: Spegel, or Peili without flights.
    Legacy,
}

/// The peers that a router knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterPeers {
    /// Their number.
    pub count: usize,
    /// The listed ones, at most [`MAX_LISTED_PEERS`].
    pub listed: Vec<RouterPeer>,
    /// Why there are none, if looking for them has failed.
    pub why_none: Option<String>,
    /// The addresses of nodes that have no network key in common with this one: one of them refused the other lately.
    pub refused_nodes: Vec<IpAddr>,
}

/// The most peers that a router lists.
pub const MAX_LISTED_PEERS: usize = 1024;

/// Finds peers that hold a key, and tells them what this node holds.
#[async_trait]
pub trait Router: Send + Sync + 'static {
    /// Starts a search. This node itself is never among the candidates.
    fn find(&self, key: &Key) -> Search;

    /// Makes these keys findable here from now on, for as long as the node lives. Announcing twice is announcing once.
    async fn announce(&self, keys: Vec<Key>);

    /// Stops announcing these keys.
    async fn withdraw(&self, keys: Vec<Key>);

    /// Whether there are peers that do not take part in flights, and may hold objects that no member has.
    fn has_legacy_peers(&self) -> bool {
        false
    }

    /// The present peers, to be shown. `None`: they are unknown.
    async fn list_peers(&self) -> Option<RouterPeers> {
        None
    }

    /// The name by which peers know this node. `None`: they do not know it by a name.
    fn own_id(&self) -> Option<PeerId> {
        None
    }

    fn health(&self) -> Health;
}
