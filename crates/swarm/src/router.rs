//! The mirror's side of the node.

use async_trait::async_trait;
use libp2p::PeerId;
use mirror::{Health, Search};
use oci::Key;
use tokio::sync::{mpsc, watch};

use crate::bootstrap::Status;
use crate::key::RoutingKey;
use crate::node::{Command, Find};

/// Keys that the node takes in at once, before it looks after other things again.
const BATCH: usize = 1024;

/// Finds peers that hold content, over libp2p.
#[derive(Debug)]
pub struct Router {
    id: PeerId,
    finds: mpsc::Sender<Find>,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
    peers: watch::Receiver<usize>,
}

impl Router {
    pub(crate) fn new(
        id: PeerId,
        finds: mpsc::Sender<Find>,
        commands: mpsc::Sender<Command>,
        status: watch::Receiver<Status>,
        peers: watch::Receiver<usize>,
    ) -> Self {
        Self {
            id,
            finds,
            commands,
            status,
            peers,
        }
    }

    /// This node's name among its peers.
    pub fn id(&self) -> mirror::PeerId {
        mirror::PeerId::new(&self.id.to_string())
    }

    /// Peers in the routing table. A node that is alone has none, and that is no fault.
    pub fn peers(&self) -> usize {
        *self.peers.borrow()
    }

    async fn command(&self, command: Command) {
        // Without a node nobody can be told anything; whoever runs it has seen it end.
        if self.commands.send(command).await.is_err() {
            tracing::debug!("the router has ended");
        }
    }
}

#[async_trait]
impl mirror::Router for Router {
    fn find(&self, key: &Key) -> Search {
        let (asker, search) = Search::channel();
        let key = RoutingKey::from(key);
        if self.finds.try_send(Find { key, asker }).is_err() {
            tracing::debug!("too many look-ups wait; one finds nothing");
        }
        search
    }

    async fn announce(&self, keys: Vec<Key>) {
        for keys in keys.chunks(BATCH) {
            let keys = keys.iter().map(RoutingKey::from).collect();
            self.command(Command::Announce(keys)).await;
        }
    }

    async fn withdraw(&self, keys: Vec<Key>) {
        for keys in keys.chunks(BATCH) {
            let keys = keys.iter().map(RoutingKey::from).collect();
            self.command(Command::Withdraw(keys)).await;
        }
    }

    /// Ready once a round of bootstrapping has ended, whatever its end: alone is a valid cluster.
    fn health(&self) -> Health {
        let status = self.status.borrow();
        if status.done {
            Health::Ready
        } else {
            Health::Waiting(status.report.clone())
        }
    }
}
