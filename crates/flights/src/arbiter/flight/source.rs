//! A node that has an object or is receiving it.

use crate::wire::RequestNumber;
use crate::{NodeId, Time};

/// The state of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::arbiter) enum State {
    /// It was granted the lead and has no byte yet.
    Granted,
    /// It pulls from upstream and has bytes.
    Begun,
    /// It pulls from another source.
    Following,
    /// It pulls from upstream for all shards, and feeds the fetcher of one of them.
    LeadsForAll,
    /// It pulls from a node of another shard, for its own shard.
    Fetching,
    Complete,
}

impl State {
    pub fn is_lead(self) -> bool {
        matches!(self, Self::Granted | Self::Begun)
    }

    /// Whether the arbiter above this one, if there is one, is told of the pull.
    pub fn is_told_above(self) -> bool {
        !matches!(self, Self::Following | Self::Complete)
    }
}

/// A request of a node: its number, and, if this arbiter has seen the request, its repository and the node that passed
/// it on.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::arbiter) struct Asked {
    pub number: RequestNumber,
    pub repository: Option<u64>,
    pub via: Option<NodeId>,
}

#[derive(Clone, Debug)]
pub(in crate::arbiter) struct Source {
    pub node: NodeId,
    pub state: State,
    /// The request that this state results from.
    pub asked: Asked,
    pub parent: Option<NodeId>,
    pub(super) derived: Derived,
    /// Its followers have a higher order.
    pub order: u32,
    /// Since when it is in this state.
    pub since: Time,
    pub heard: Time,
    /// It was heard from since it was granted the lead.
    pub is_confirmed: bool,
    /// A node reported it as failed, and it has not been heard from since.
    pub is_doubtful: bool,
    /// It leads beside another node.
    pub is_second_lead: bool,
    /// It receives far less than others could: its own link is slow, or upstream is slow for it.
    pub is_slow: bool,
    /// A node below the same root received bytes with a wrong digest.
    pub(super) is_wrong: bool,
    pub(super) rank: Option<Rank>,
}

/// What follows for a source from the nodes above it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Derived {
    /// Its bytes come from a root, directly or through other nodes. Only then can it feed others.
    pub is_fed: bool,
    /// The root has the complete object.
    pub root_is_complete: bool,
    pub depth: u16,
    /// It is slow itself, or a node above it is.
    pub is_behind_slow_node: bool,
}

impl Source {
    /// The nodes between it and its root.
    pub fn depth(&self) -> u16 {
        self.derived.depth
    }
}

/// The order of sources, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub is_behind_slow_node: bool,
    pub is_doubtful: bool,
    pub cost: u64,
    pub tie_break: u64,
}
