//! One round of bootstrapping as the node sees it: dials, then a refresh of the routing table.

use std::collections::HashSet;

use libp2p::swarm::ConnectionId;
use tokio::sync::oneshot;

/// How a round ended.
#[derive(Debug, Default)]
pub(crate) struct RoundResult {
    /// Peers that are connected, of those that were to be.
    pub(crate) reached: usize,
    /// The last thing that went wrong.
    pub(crate) error: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Round {
    dials: HashSet<ConnectionId>,
    refreshing: bool,
    result: RoundResult,
    done: oneshot::Sender<RoundResult>,
}

/// What is to be done for a round.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Wait,
    /// All dials are over and somebody is there.
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

    /// A peer to dial is connected already.
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
        // Whoever asked may have stopped waiting.
        let _ = self.done.send(self.result);
    }
}
