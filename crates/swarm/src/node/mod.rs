//! The task that owns the libp2p swarm and all its state. The router sends commands; watches publish what others may
//! see.

pub(crate) mod connections;
mod credentials;
mod events;
mod flights;
mod peers;
mod queries;
mod refused_nodes;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::kad::QueryId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{Multiaddr, PeerId, Swarm};
use lru::LruCache;
use mirror::{Candidate, FlightEventSender, RouterPeers};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::addresses::{AddressBook, AddressFilter, Endpoint};
use crate::behaviour::Behaviour;
use crate::bootstrap::{Round, RoundResult, Seed, Step};
use crate::flights::{CommandReceiver, Flights};
use crate::key::RoutingKey;
use crate::legacy_peers::LegacyPeers;
use crate::metrics::Metrics;
use crate::peers::{MAX_PEERS, Remembered};
use crate::publish::Publisher;
use crate::search::{SWEEP_INTERVAL, Searches};
use crate::table;
use connections::Connections;
pub(crate) use credentials::Credentials;
use queries::Query;
use refused_nodes::RefusedNodes;

/// The most peers that have connected and not introduced themselves yet: as many as may do so at once.
const MAX_CAME_FROM: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// The interval between checks for changes caused by time alone.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Find {
    pub(crate) key: RoutingKey,
    pub(crate) asker: mpsc::Sender<Candidate>,
}

pub(crate) enum Command {
    Announce(Vec<RoutingKey>),
    Withdraw(Vec<RoutingKey>),
    /// Asks for the peers, to be shown.
    Peers(oneshot::Sender<RouterPeers>),
    /// A round of bootstrapping.
    Round {
        seeds: Vec<Seed>,
        done: oneshot::Sender<RoundResult>,
    },
}

/// The input from the router and the bootstrapper.
pub(crate) struct Inbox {
    pub(crate) finds: mpsc::Receiver<Find>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) flight_commands: CommandReceiver,
}

/// The output that others may see.
pub(crate) struct Outbox {
    /// The number of peers in the routing table.
    pub(crate) peers: watch::Sender<usize>,
    /// The addresses that are announced to peers.
    pub(crate) addresses: watch::Sender<Vec<Multiaddr>>,
    /// The peers to remember.
    pub(crate) remembered: watch::Sender<Vec<Remembered>>,
    /// What flights request of the mirror.
    pub(crate) events: FlightEventSender,
}

pub(crate) struct Node {
    swarm: Swarm<Behaviour>,
    filter: AddressFilter,
    registry_port: u16,
    metrics: Metrics,
    outbox: Outbox,
    book: AddressBook,
    publisher: Publisher,
    searches: Searches,
    /// `None`: this node does not take part.
    flights: Option<Flights>,
    legacy_peers: LegacyPeers,
    /// Whether there are legacy peers, for the router.
    pub(crate) has_legacy_peers: Arc<AtomicBool>,
    queries: HashMap<QueryId, Query>,
    round: Option<Round>,
    connections: Connections,
    /// The IP addresses from which peers connected that have not introduced themselves yet.
    came_from: LruCache<PeerId, Option<IpAddr>>,
    /// The number of nodes in the cluster, this one included, as far as the routing table shows.
    size: usize,
    /// The routing table has changed since the last check.
    table_changed: bool,
    /// It was logged that provider records had to be dropped.
    dropping: bool,
    /// It was logged that announced keys had to be dropped.
    dropping_keys: bool,
    /// A socket of this node has closed: some peers can no longer reach it.
    listener_lost: bool,
    credentials: Credentials,
    refused_nodes: RefusedNodes,
}

impl Node {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        filter: AddressFilter,
        registry_port: u16,
        flights: Option<Flights>,
        credentials: Credentials,
        metrics: Metrics,
        outbox: Outbox,
    ) -> Self {
        Self {
            swarm,
            filter,
            registry_port,
            metrics,
            outbox,
            book: AddressBook::default(),
            publisher: Publisher::default(),
            searches: Searches::default(),
            flights,
            legacy_peers: LegacyPeers::default(),
            has_legacy_peers: Arc::default(),
            queries: HashMap::new(),
            round: None,
            connections: Connections::default(),
            came_from: LruCache::new(MAX_CAME_FROM),
            size: 1,
            table_changed: false,
            dropping: false,
            dropping_keys: false,
            listener_lost: false,
            credentials,
            refused_nodes: RefusedNodes::default(),
        }
    }

    /// Waits for the first socket that listens, before the node runs.
    pub(crate) async fn first_socket(&mut self) -> SocketAddr {
        loop {
            let event = self.swarm.select_next_some().await;
            self.on_event(event);
            let mut sockets = self.swarm.listeners().filter_map(Endpoint::router);
            if let Some(socket) = sockets.next() {
                return socket;
            }
        }
    }

    /// Whether the node takes part in flights.
    pub(crate) fn takes_part(&self) -> bool {
        self.flights.is_some()
    }

    pub(crate) fn swarm(&mut self) -> &mut Swarm<Behaviour> {
        &mut self.swarm
    }

    /// Runs until told to stop, or until a listening socket is lost: then only a restart helps.
    pub(crate) async fn run(mut self, mut inbox: Inbox, stop: CancellationToken) {
        let mut cancel_abandoned = interval(SWEEP_INTERVAL);
        let mut maintenance = interval(MAINTENANCE_INTERVAL);
        for ticks in [&mut cancel_abandoned, &mut maintenance] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        while !self.listener_lost {
            let waits = !self.searches.is_empty()
                || self.flights.as_ref().is_some_and(Flights::has_questions);
            let deadline = self.flights.as_ref().map(Flights::next_deadline);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(find) = inbox.finds.recv() => self.find(find),
                Some(command) = inbox.commands.recv() => self.on_command(command),
                command = inbox.flight_commands.recv() => self.on_flight_command(command),
                event = self.swarm.select_next_some() => self.on_event(event),
                () = until(deadline), if deadline.is_some() => self.tick(),
                _ = cancel_abandoned.tick(), if waits => self.cancel_abandoned(),
                _ = maintenance.tick() => self.maintain(),
                () = self.credentials.changed() => self.on_new_credentials(),
            }
            self.publish();
            self.flush_flights();
        }
        self.remember();
        self.leave().await;
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Announce(keys) => self.announce(keys),
            Command::Withdraw(keys) => self.withdraw(&keys),
            Command::Peers(asker) => {
                // The caller may have stopped waiting.
                let _ = asker.send(self.shown_peers());
            }
            Command::Round { seeds, done } => self.start_round(&seeds, done),
        }
    }

    /// Connects to the peers that are not connected. A round in progress is abandoned.
    fn start_round(&mut self, seeds: &[Seed], done: oneshot::Sender<RoundResult>) {
        let mut round = Round::new(done);
        let mut to_dial: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
        let sockets = seeds.iter().map(|seed| seed.socket);
        self.filter.proven.lock().set_seeds(sockets);
        for seed in seeds {
            let peer = seed.id.or_else(|| self.book.owner(&seed.socket));
            if self.filter.is_own(&seed.socket) || peer == Some(*self.swarm.local_peer_id()) {
                continue;
            }
            let address = Endpoint::Router(seed.socket).into();
            match peer {
                Some(peer) if self.swarm.is_connected(&peer) => round.connected(),
                Some(peer) => to_dial.entry(peer).or_default().push(address),
                None => {
                    let options = DialOpts::unknown_peer_id().address(address).build();
                    self.dial(&mut round, options);
                }
            }
        }
        for (peer, addresses) in to_dial {
            let options = DialOpts::peer_id(peer).addresses(addresses);
            let options = options.extend_addresses_through_behaviour().build();
            self.dial(&mut round, options);
        }
        self.round = Some(round);
        self.advance_round();
    }

    fn dial(&mut self, round: &mut Round, options: DialOpts) {
        let connection = options.connection_id();
        round.dialing(connection);
        if let Err(error) = self.swarm.dial(options) {
            round.failed(connection, error.to_string());
        }
    }

    fn advance_round(&mut self) {
        let Some(round) = &mut self.round else { return };
        match round.step() {
            Step::Wait => {}
            // If the table is empty, an event follows when a peer comes.
            Step::Refresh if *self.outbox.peers.borrow() > 0 => {
                let own = *self.swarm.local_peer_id();
                let query = self.swarm.behaviour_mut().kad.get_closest_peers(own);
                self.queries.insert(query, Query::Neighbours);
                round.refreshing();
            }
            Step::Refresh => {}
            Step::End => self.end_round(),
        }
    }

    fn end_round(&mut self) {
        if let Some(round) = self.round.take() {
            round.end();
        }
    }

    /// Removes a dead peer from everything that would wait for it.
    fn lose(&mut self, peer: PeerId) {
        self.book.forget(&peer);
        if self.swarm.behaviour_mut().kad.remove_peer(&peer).is_some() {
            tracing::debug!(%peer, "lost a peer");
            self.metrics.peers_lost.inc();
            self.on_table_change();
        }
    }

    fn on_table_change(&mut self) {
        self.table_changed = true;
        let buckets = self.swarm.behaviour_mut().kad.kbuckets();
        let peers = buckets.map(|bucket| bucket.num_entries()).sum();
        self.outbox.peers.send_if_modified(|known| {
            let changed = *known != peers;
            *known = peers;
            changed
        });
        self.metrics.peers.set(peers as i64);
    }

    fn maintain(&mut self) {
        let store = self.swarm.behaviour_mut().kad.store_mut();
        store.expire(Instant::now());
        let (records, dropped) = (store.len(), store.take_dropped());
        self.metrics.provider_records.set(records as i64);
        self.metrics.provider_records_dropped.inc_by(dropped);
        let refused = self.filter.proven.lock().take_refused();
        self.metrics.dials_refused.inc_by(refused);
        if dropped > 0 && !self.dropping {
            self.dropping = true;
            tracing::warn!(
                records,
                "peers announce more than this node keeps for them; records of whoever announces most are \
                 dropped, and some lookups will miss"
            );
        }
        let (told, pending) = (self.publisher.told(), self.publisher.pending());
        // Members are told at once.
        let (told, pending) = match self.tells_kademlia() {
            true => (told, pending),
            false => (told + pending, 0),
        };
        self.metrics.announcements.set(told as i64);
        self.metrics.announcements_pending.set(pending as i64);
        self.maintain_flights();
        let is_peili = |peer| {
            let known = self.book.get(peer);
            known.is_some_and(|known| known.software.agent.version.is_some())
        };
        let connected = self.swarm.connected_peers().count();
        let peili = self.swarm.connected_peers().filter(|p| is_peili(p)).count();
        for (software, count) in [("peili", peili), ("other", connected - peili)] {
            let gauge = self
                .metrics
                .connected_peers
                .get_or_create(&[("software", software)]);
            gauge.set(count as i64);
        }
        if std::mem::take(&mut self.table_changed) {
            let kad = &mut self.swarm.behaviour_mut().kad;
            self.size = table::cluster_size(kad.kbuckets().filter_map(|bucket| {
                let bits = bucket.range().0.ilog2()?;
                Some((bits, bucket.num_entries()))
            }));
            self.publisher.resized(self.size);
            self.remember();
        }
    }

    /// Publishes the connected peers as remembered: they are alive.
    fn remember(&mut self) {
        let connected = self.swarm.connected_peers();
        let known = connected.filter_map(|peer| Some((peer, self.book.get(peer)?.routers())));
        let peers: Vec<_> = known
            .filter(|(_, routers)| !routers.is_empty())
            .take(MAX_PEERS)
            .map(|(peer, routers)| Remembered::new(peer, &routers))
            .collect();
        // An empty list would only delete what may help the next start.
        if !peers.is_empty() {
            self.outbox.remembered.send_replace(peers);
        }
    }
}

/// The IP address in a multiaddress.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::from(ip).to_canonical()),
        Protocol::Ip6(ip) => Some(IpAddr::from(ip).to_canonical()),
        _ => None,
    })
}

async fn until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        sleep_until(deadline.into()).await;
    }
}
