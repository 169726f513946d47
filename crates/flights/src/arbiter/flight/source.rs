//! A node that has an object or is receiving it.

use crate::{NodeId, Time};

/// The state of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::arbiter) enum State {
    /// It asks the arbiter of the cluster, or of another shard.
    AskingElsewhere,
    /// It was granted the lead and has no byte yet.
    Granted,
    /// It pulls from upstream and has bytes.
    Begun,
    /// It pulls from another source.
    Following,
    /// It pulls from a node of another shard.
    FollowingElsewhere,
    Complete,
}

impl State {
    pub fn is_lead(self) -> bool {
        matches!(self, Self::Granted | Self::Begun)
    }

    /// Whether others wait for the outcome.
    pub fn is_awaited(self) -> bool {
        matches!(self, Self::Granted | Self::AskingElsewhere)
    }
}

/// A request of a node: its number, and its repository if this arbiter has seen the request.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::arbiter) struct Asked {
    pub number: u64,
    pub repository: Option<u64>,
}

#[derive(Clone, Debug)]
pub(in crate::arbiter) struct Source {
    pub node: NodeId,
    pub state: State,
    /// The request that this state results from.
    pub asked: Asked,
    pub parent: Option<NodeId>,
    /// Its bytes come from a root, directly or through other nodes. Only then can it feed others.
    pub(super) is_fed: bool,
    /// The root that its bytes come from, or came from last.
    pub(super) root: NodeId,
    /// The root has the complete object.
    pub(super) root_is_complete: bool,
    pub depth: u16,
    /// Its followers have a higher order.
    pub order: u32,
    pub heard: Time,
    /// It was heard from since it was granted the lead.
    pub is_confirmed: bool,
    /// A node reported it as failed, and it has not been heard from since.
    pub is_doubtful: bool,
    /// It leads beside another node.
    pub is_second_lead: bool,
    /// It receives far less than others could: its own link is slow, or upstream is slow for it.
    pub is_slow: bool,
    /// It is slow itself, or a node above it is.
    pub(super) is_behind_slow_node: bool,
    /// A node below the same root received bytes with a wrong digest.
    pub(super) is_wrong: bool,
    pub(super) rank: Option<Rank>,
}

/// The order of sources, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub is_behind_slow_node: bool,
    pub is_doubtful: bool,
    /// See [`Flight::leads_for_all`](super::Flight::leads_for_all).
    pub leads_for_all: bool,
    pub cost: u64,
    pub tie_break: u64,
}
