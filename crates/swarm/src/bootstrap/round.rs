//! One round of bootstrapping, as the node runs it: dials, then a refresh of the routing table.

use std::collections::HashSet;

use libp2p::swarm::ConnectionId;
use tokio::sync::oneshot;

/// The result of a round.
#[derive(Debug, Default)]
pub(crate) struct RoundResult {
    /// The number of connected peers, of those to dial.
    pub(crate) reached: usize,
    /// The last failure.
    pub(crate) error: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Round {
    dials: HashSet<ConnectionId>,
    refreshing: bool,
    result: RoundResult,
    done: oneshot::Sender<RoundResult>,
}

/// The next step of a round.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Wait,
    /// All dials have ended, and a peer is connected.
    Refresh,
    End,
}

impl Round {
    pub(crate) fn new(done: oneshot::Sender<RoundResult>) -> Self {
        Self {
            dials: HashSet::new(),
            refreshing: false,
            result: RoundResult::default(),
            done,
        }
    }

    pub(crate) fn dialing(&mut self, connection: ConnectionId) {
        self.dials.insert(connection);
    }

    /// Records that a peer to dial is connected already.
    pub(crate) fn connected(&mut self) {
        self.result.reached += 1;
    }

    pub(crate) fn established(&mut self, connection: ConnectionId) {
        if self.dials.remove(&connection) {
            self.result.reached += 1;
        }
    }

    pub(crate) fn failed(&mut self, connection: ConnectionId, error: String) {
        if self.dials.remove(&connection) {
            self.result.error = Some(error);
        }
    }

    pub(crate) fn refreshing(&mut self) {
        self.refreshing = true;
    }

    pub(crate) fn is_refreshing(&self) -> bool {
        self.refreshing
    }

    pub(crate) fn step(&self) -> Step {
        if !self.dials.is_empty() || self.refreshing {
            Step::Wait
        } else if self.result.reached > 0 {
            Step::Refresh
        } else {
            Step::End
        }
    }

    pub(crate) fn end(self) {
        // The caller may have stopped waiting.
        let _ = self.done.send(self.result);
    }
}
