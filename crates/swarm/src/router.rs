//! The mirror's side of the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use libp2p::PeerId;
use mirror::{Candidate, Health, News, Search, Seek, Turn};
use oci::{Digest, Key};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::bootstrap::Status;
use crate::flights::Word;
use crate::key::RoutingKey;
use crate::node::{Command, Find};

/// Keys that the node takes in at once, before it looks after other things again.
const BATCH: usize = 1024;
/// For an answer about a pull. The rules answer within a budget of some seconds; this is for faults of ours.
const SEEK_LIMIT: Duration = Duration::from_secs(30);

/// Finds peers that hold content, and agrees with them on who pulls it from upstream, over libp2p.
#[derive(Debug)]
pub struct Router {
    id: PeerId,
    finds: mpsc::Sender<Find>,
    commands: mpsc::Sender<Command>,
    /// `None`: this node takes part in no flights.
    words: Option<mpsc::Sender<Word>>,
    status: watch::Receiver<Status>,
    peers: watch::Receiver<usize>,
    /// What a node takes in that feeds this one and was found to have far more than it takes.
    outrun: watch::Receiver<u64>,
    has_strangers: Arc<AtomicBool>,
}

impl Router {
    pub(crate) fn new(
        id: PeerId,
        (finds, commands, words): (
            mpsc::Sender<Find>,
            mpsc::Sender<Command>,
            Option<mpsc::Sender<Word>>,
        ),
        (status, peers, outrun): (
            watch::Receiver<Status>,
            watch::Receiver<usize>,
            watch::Receiver<u64>,
        ),
        has_strangers: Arc<AtomicBool>,
    ) -> Self {
        Self {
            id,
            finds,
            commands,
            words,
            status,
            peers,
            outrun,
            has_strangers,
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

    fn has_strangers(&self) -> bool {
        self.has_strangers.load(Ordering::Relaxed)
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

#[async_trait]
impl mirror::Flights for Router {
    async fn seek(&self, seek: Seek) -> Turn {
        let Some(words) = &self.words else {
            return Turn::Alone;
        };
        let turn = async {
            let (asker, turn) = oneshot::channel();
            words.send(Word::Seek(Box::new(seek), asker)).await.ok()?;
            turn.await.ok()
        };
        timeout(SEEK_LIMIT, turn)
            .await
            .ok()
            .flatten()
            .unwrap_or(Turn::Alone)
    }

    fn report(&self, digest: &Digest, news: News) {
        let Some(words) = &self.words else { return };
        if words.try_send(Word::Report(digest.clone(), news)).is_err() {
            tracing::debug!(%digest, ?news, "too much waits to be told; the cluster does not hear how a pull goes on");
        }
    }

    async fn companion(&self) -> Option<Candidate> {
        let words = self.words.as_ref()?;
        let (asker, companion) = oneshot::channel();
        words.send(Word::Companion(asker)).await.ok()?;
        companion.await.ok()?
    }

    fn outrun(&self) -> watch::Receiver<u64> {
        let mut outrun = self.outrun.clone();
        outrun.mark_unchanged();
        outrun
    }

    fn lag(&self, lags: bool) {
        let Some(words) = &self.words else { return };
        if words.try_send(Word::Lag(lags)).is_err() {
            tracing::debug!(
                "too much waits to be told; the cluster does not hear that this node is slow"
            );
        }
    }
}
