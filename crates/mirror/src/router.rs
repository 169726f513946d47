//! Who has it: the trait that the mirror asks, and what it gets for an answer.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use oci::Key;
use tokio::sync::mpsc;

use crate::Health;

/// A node of the cluster, by a name that stays the same while its addresses change (for libp2p its peer id).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(Arc<str>);

impl PeerId {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much of the object a candidate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    Complete,
}

/// A peer that may have what was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub peer: PeerId,
    /// Where the peer's registry listens: all its addresses, IPv4 and IPv6, in no order. Never empty.
    pub addresses: Arc<[SocketAddr]>,
    pub holding: Holding,
    /// The peer's failure domain, where it has said so.
    pub zone: Option<Arc<str>>,
}

/// Candidates as they are found. Ends when all who could know have answered; dropping it ends the search.
#[derive(Debug)]
pub struct Search(mpsc::Receiver<Candidate>);

impl Search {
    /// A search and the end that is fed. Closing the sender ends the search.
    pub fn channel() -> (mpsc::Sender<Candidate>, Self) {
        let (sender, receiver) = mpsc::channel(SEARCH_QUEUE);
        (sender, Self(receiver))
    }

    pub async fn next(&mut self) -> Option<Candidate> {
        self.0.recv().await
    }
}

/// Candidates waiting to be taken from a search. A request needs a handful.
const SEARCH_QUEUE: usize = 32;

/// Finds peers that hold a key, and tells them what this node holds.
#[async_trait]
pub trait Router: Send + Sync + 'static {
    /// Starts a search. This node itself is never among the candidates.
    fn find(&self, key: &Key) -> Search;

    /// Lets peers find these keys here from now on, for as long as the node lives. Announcing twice is announcing once.
    async fn announce(&self, keys: Vec<Key>);

    /// Stops announcing these keys.
    async fn withdraw(&self, keys: Vec<Key>);

    /// Whether there are peers that take part in no flights, and may hold what nobody in them has.
    fn has_strangers(&self) -> bool {
        false
    }

    fn health(&self) -> Health;
}
