//! A node that has a key, or is on its way to have it.

use crate::{NodeId, Time};

/// How far a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::arbiter) enum State {
    /// It asks the arbiter of the whole cluster, or of another district.
    Sent,
    /// It was told to lead and has no byte yet.
    Granted,
    /// It pulls from upstream and has bytes.
    Begun,
    /// It takes its bytes from another source.
    Following,
    /// It takes its bytes from a node of another district.
    Fed,
    Complete,
}

impl State {
    pub fn is_lead(self) -> bool {
        matches!(self, Self::Granted | Self::Begun)
    }

    /// Others wait for what comes of it.
    pub fn is_awaited(self) -> bool {
        matches!(self, Self::Granted | Self::Sent)
    }
}

/// A question of a node: its number, and the group that it was asked for, where this arbiter has seen it.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::arbiter) struct Asked {
    pub number: u64,
    pub group: Option<u64>,
}

#[derive(Clone, Debug)]
pub(in crate::arbiter) struct Source {
    pub node: NodeId,
    pub state: State,
    /// What it does came of this question.
    pub asked: Asked,
    pub parent: Option<NodeId>,
    /// Its bytes come from a root, over however many hops. Nobody else can feed others.
    pub(super) is_fed: bool,
    /// The root that its bytes come from, or came from last, and how many hops it is away.
    pub(super) root: NodeId,
    /// That one has it complete.
    pub(super) has_landed: bool,
    pub depth: u16,
    /// Those that it feeds come after it.
    pub order: u32,
    pub heard: Time,
    /// It has been heard of since it was told to lead.
    pub is_confirmed: bool,
    /// Other objects come to it meanwhile.
    pub(super) is_busy: bool,
    /// Somebody said that it was of no use, and it has not been heard of since.
    pub is_doubted: bool,
    /// It gets far less than others could: its own link is slow, or upstream is slow to it.
    pub is_slow: bool,
    /// It is slow, or somebody is by way of whom it gets its bytes.
    pub(super) is_held_up: bool,
    /// What somebody got by way of the same root was wrong.
    pub(super) is_wrong: bool,
    /// So many of those it feeds stayed behind it.
    pub(super) outran: u8,
    /// Who fed it when it stayed behind.
    pub(super) outrun_by: Option<NodeId>,
    pub(super) rank: Option<Rank>,
}

/// The best comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub is_held_up: bool,
    pub is_doubted: bool,
    /// See [`Flight::leads_for_all`](super::Flight::leads_for_all).
    pub leads_for_all: bool,
    pub cost: u64,
    pub lot: u64,
}
