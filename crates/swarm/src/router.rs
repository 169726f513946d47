//! The mirror's handle to the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use libp2p::PeerId;
use mirror::{
    Decided, FlightEvents, Health, LinkTest, PullProgress, Received, RouterPeers, Search,
    SourceRequest, flight_events,
};
use oci::{Digest, Key};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::bootstrap::Status;
use crate::flights::{CommandSender, FlightCommand, mirror_peer};
use crate::key::RoutingKey;
use crate::node::{Command, Find};

/// The most keys passed to the node at once, so that it can do other work in between.
const BATCH: usize = 1024;
/// The limit of a request for a source. The rules answer within some seconds; this covers faults of Peili.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// The limit of a request for the peers. The node answers at once unless it is very busy.
const PEERS_LIMIT: Duration = Duration::from_secs(1);

/// Finds peers that hold content, and agrees with them which one pulls it from upstream, over libp2p.
#[derive(Debug)]
pub struct Router {
    id: PeerId,
    finds: mpsc::Sender<Find>,
    commands: mpsc::Sender<Command>,
    /// `None`: this node does not take part in flights.
    flight_commands: Option<CommandSender>,
    status: watch::Receiver<Status>,
    peers: watch::Receiver<usize>,
    /// What flights request of the mirror, until the mirror takes it.
    events: Mutex<Option<FlightEvents>>,
    has_legacy_peers: Arc<AtomicBool>,
}

impl Router {
    pub(crate) fn new(
        id: PeerId,
        (finds, commands, flight_commands): (
            mpsc::Sender<Find>,
            mpsc::Sender<Command>,
            Option<CommandSender>,
        ),
        (status, peers, events): (
            watch::Receiver<Status>,
            watch::Receiver<usize>,
            FlightEvents,
        ),
        has_legacy_peers: Arc<AtomicBool>,
    ) -> Self {
        Self {
            id,
            finds,
            commands,
            flight_commands,
            status,
            peers,
            events: Mutex::new(Some(events)),
            has_legacy_peers,
        }
    }

    /// This node's id among its peers.
    pub fn id(&self) -> mirror::PeerId {
        mirror_peer(&self.id)
    }

    /// The number of peers in the routing table. A single node has none, which is not an error.
    pub fn peers(&self) -> usize {
        *self.peers.borrow()
    }

    async fn command(&self, command: Command) {
        // Without the node's task no peer can be notified. The task's end is reported elsewhere.
        if self.commands.send(command).await.is_err() {
            tracing::debug!("the router has ended");
        }
    }
}

impl Router {
    fn command_flights(&self, command: FlightCommand) {
        if let Some(flight_commands) = &self.flight_commands
            && !flight_commands.send(command)
        {
            tracing::debug!(
                "the queue to the router is full; the cluster does not learn of some progress"
            );
        }
    }
}

#[async_trait]
impl mirror::Router for Router {
    fn own_id(&self) -> Option<mirror::PeerId> {
        Some(self.id())
    }

    fn find(&self, key: &Key) -> Search {
        let (asker, search) = Search::channel();
        let key = RoutingKey::from(key);
        if self.finds.try_send(Find { key, asker }).is_err() {
            tracing::debug!("too many lookups are queued; this one finds nothing");
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

    async fn list_peers(&self) -> Option<RouterPeers> {
        let (asker, peers) = oneshot::channel();
        let asked = async {
            self.command(Command::Peers(asker)).await;
            peers.await.ok()
        };
        let mut peers: RouterPeers = timeout(PEERS_LIMIT, asked).await.ok().flatten()?;
        if peers.count == 0 {
            peers.why_none = self.status.borrow().problem.clone();
        }
        Some(peers)
    }

    fn has_legacy_peers(&self) -> bool {
        self.has_legacy_peers.load(Ordering::Relaxed)
    }

    /// Ready once a round of bootstrapping has ended, with any result: a single node is a valid cluster.
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
    async fn request_source(&self, request: SourceRequest) -> Decided {
        let Some(flight_commands) = &self.flight_commands else {
            return Decided::alone();
        };
        let decision = async {
            let (asker, decision) = oneshot::channel();
            flight_commands
                .request(FlightCommand::RequestSource(Box::new(request), asker))
                .await
                .ok()?;
            decision.await.ok()
        };
        timeout(REQUEST_LIMIT, decision)
            .await
            .ok()
            .flatten()
            .unwrap_or_else(Decided::alone)
    }

    fn report(&self, digest: &Digest, progress: PullProgress) {
        self.command_flights(FlightCommand::Report(digest.clone(), progress));
    }

    fn observe(&self, rates: Received) {
        self.command_flights(FlightCommand::Observe(rates));
    }

    fn charge(&self, repository: u64, lost: Duration) {
        self.command_flights(FlightCommand::Charge(repository, lost));
    }

    fn link_tested(&self, test: LinkTest) {
        self.command_flights(FlightCommand::LinkTested(test));
    }

    fn events(&self) -> FlightEvents {
        let events = self.events.lock().take();
        events.unwrap_or_else(|| flight_events().1)
    }
}
