//! The node's side of flights: sends their messages and handles their answers.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::core::ConnectedPoint;
use libp2p::{Multiaddr, PeerId};
use tokio::time::{sleep, timeout};

use super::{Node, ip_of};
use crate::addresses::{Endpoint, Known, Software};
use crate::datagrams::Event;
use crate::flights::{Answer, FlightCommand, Flights, node_id, peer_id};
use crate::key::RoutingKey;
use crate::legacy_peers::{SIGN, Sign};

/// The limit for the last messages of a leaving node.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(200);
/// The interval between checks whether they are sent.
const LEAVE_INTERVAL: Duration = Duration::from_millis(5);

impl Node {
    pub(super) fn on_flight_command(&mut self, command: FlightCommand) {
        if let Some(flights) = &mut self.flights {
            flights.handle_command(command);
        }
    }

    pub(super) fn tick(&mut self) {
        if let Some(flights) = &mut self.flights {
            flights.tick();
        }
    }

    pub(super) fn on_datagram(&mut self, event: Event) {
        let Some(flights) = &mut self.flights else {
            return;
        };
        match event {
            Event::Undelivered { to } => {
                self.metrics.datagrams_undelivered.inc();
                flights.undelivered(&to);
            }
            Event::Received {
                from,
                connection,
                datagrams,
            } => {
                for datagram in datagrams {
                    self.metrics.datagrams_received.inc();
                    if let Err(error) = flights.receive(&from, &datagram) {
                        tracing::debug!(peer = %from, %error, "cannot decode a message of a peer");
                        if let Some(behaviour) = self.swarm.behaviour_mut().flights.as_mut() {
                            behaviour.refuse(from, connection);
                        }
                        return;
                    }
                }
            }
        }
    }

    /// Sends the messages of flights, and handles the answers to lookups.
    pub(super) fn flush_flights(&mut self) {
        let Some(flights) = &mut self.flights else {
            return;
        };
        let answers = flights.answers();
        for event in flights.take_events() {
            self.outbox.events.send(event);
        }
        for datagram in flights.take_datagrams() {
            let id = datagram.to;
            let (Some(to), Some(behaviour)) =
                (peer_id(&id), self.swarm.behaviour_mut().flights.as_mut())
            else {
                continue;
            };
            self.metrics.datagrams_sent.inc();
            let addresses = || {
                let mut routers = flights.routers(&id);
                if routers.is_empty() {
                    let known = self.book.get(&to);
                    routers = known.map(Known::routers).unwrap_or_default();
                }
                routers
                    .into_iter()
                    .map(|socket| Endpoint::Router(socket).into())
                    .collect()
            };
            behaviour.send(to, datagram.bytes, addresses);
        }
        for answer in answers {
            match answer {
                Answer::Found(key, holders) => self.on_holders(&key, &holders),
                Answer::LegacyPeers(true) => self.legacy_peers.heard(Instant::now()),
                Answer::LegacyPeers(false) => {}
            }
        }
    }

    fn on_holders(&mut self, key: &RoutingKey, holders: &[::flights::NodeId]) {
        let own = node_id(self.swarm.local_peer_id());
        for id in holders.iter().filter(|id| Some(**id) != own) {
            let candidate = self.flights.as_ref().and_then(|f| f.candidate(id));
            if let (Some(candidate), Some(peer)) = (candidate, peer_id(id))
                && self.searches.is_new(key, peer)
            {
                self.deliver(key, candidate);
            }
        }
        let ended = self.searches.finished(key, Instant::now());
        self.observe(ended);
    }

    /// Whether provider records may name holders that members do not.
    pub(super) fn asks_kademlia(&self) -> bool {
        let has_joined = self.flights.as_ref().is_some_and(Flights::has_joined);
        !has_joined || self.legacy_peers.is_there(Instant::now())
    }

    /// Whether provider records should be published.
    pub(super) fn tells_kademlia(&self) -> bool {
        self.flights.is_none() || self.legacy_peers.is_there(Instant::now())
    }

    pub(super) fn maintain_flights(&mut self) {
        let known = self.known_peers();
        let Some(flights) = &mut self.flights else {
            return;
        };
        self.metrics.members.set(flights.members() as i64);
        self.metrics
            .pending_requests
            .set(flights.open_requests() as i64);
        let keys_dropped = flights.take_dropped_keys();
        self.metrics.keys_dropped.inc_by(keys_dropped);
        if keys_dropped > 0 && !self.dropping_keys {
            self.dropping_keys = true;
            tracing::warn!(
                "members announce more than this node keeps; some content of the members that announce most cannot be \
                 found, and is pulled from the registry"
            );
        }
        flights.join();
        let now = Instant::now();
        if known.iter().any(|(_, software)| software.is_legacy()) {
            self.legacy_peers.met(now);
        }
        let has_legacy_peers = self.legacy_peers.is_there(now);
        self.has_legacy_peers
            .store(has_legacy_peers, Ordering::Relaxed);
        let sign = RoutingKey::of(SIGN);
        match self.legacy_peers.sign(now) {
            Some(Sign::PutUp) => flights.hold(&[sign]),
            Some(Sign::TakeDown) => flights.release(&[sign]),
            None if flights.has_joined() && self.legacy_peers.is_to_ask(now) => {
                flights.ask_for_legacy_peers(&sign);
            }
            None => {}
        }
        // The membership detects deaths. Kademlia, which is rarely queried, would not.
        let is_dead = |(peer, software): &(PeerId, Software)| {
            software.flights && !flights.is_member(peer) && !self.swarm.is_connected(peer)
        };
        let dead: Vec<_> = known.into_iter().filter(is_dead).collect();
        for (peer, _) in dead {
            self.lose(peer);
        }
    }

    /// The peers that are connected or in the routing table, with their software.
    pub(super) fn known_peers(&mut self) -> Vec<(PeerId, Software)> {
        let mut peers: HashSet<_> = self.swarm.connected_peers().copied().collect();
        for bucket in self.swarm.behaviour_mut().kad.kbuckets() {
            peers.extend(bucket.iter().map(|entry| *entry.node.key.preimage()));
        }
        let software = |peer: PeerId| Some((peer, self.book.get(&peer)?.software.clone()));
        peers.into_iter().filter_map(software).collect()
    }

    /// Records at which of this node's addresses a peer has reached it.
    pub(super) fn on_reached(&mut self, endpoint: &ConnectedPoint) {
        if let ConnectedPoint::Listener { local_addr, .. } = endpoint {
            self.on_proven(local_addr);
        }
    }

    /// Records that a peer sees this node at this address, whatever the port.
    pub(super) fn on_proven(&mut self, address: &Multiaddr) {
        if let (Some(flights), Some(ip)) = (&mut self.flights, ip_of(address)) {
            flights.proven(ip);
        }
    }

    /// Tells the other members that this node leaves.
    pub(super) async fn leave(&mut self) {
        let Some(flights) = &mut self.flights else {
            return;
        };
        flights.leave();
        self.flush_flights();
        let sent = async {
            while self.has_unsent() {
                tokio::select! {
                    _ = self.swarm.select_next_some() => {}
                    () = sleep(LEAVE_INTERVAL) => {}
                }
            }
        };
        if timeout(LEAVE_TIMEOUT, sent).await.is_err() {
            tracing::debug!("this node leaves before all members could be told");
        }
    }

    fn has_unsent(&self) -> bool {
        let behaviour = self.swarm.behaviour().flights.as_ref();
        behaviour.is_some_and(|behaviour| !behaviour.is_idle())
    }
}
