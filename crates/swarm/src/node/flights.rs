//! What flights ask of the swarm, and what it tells them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tokio::time::{sleep, timeout};

use super::Node;
use crate::addresses::{Endpoint, Known, Software};
use crate::datagrams::Event;
use crate::flights::{Answer, Flights, Word, node_id, peer_id};
use crate::foreign::{SIGN, Sign};
use crate::key::RoutingKey;

/// For the last messages of a node that leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(200);
/// Between looks whether they are sent.
const LEAVE_INTERVAL: Duration = Duration::from_millis(5);

impl Node {
    pub(super) fn on_word(&mut self, word: Word) {
        if let Some(flights) = &mut self.flights {
            flights.take_word(word);
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
                        tracing::debug!(peer = %from, %error, "cannot read a message of a peer");
                        if let Some(behaviour) = self.swarm.behaviour_mut().flights.as_mut() {
                            behaviour.refuse(from, connection);
                        }
                        return;
                    }
                }
            }
        }
    }

    /// Sends what flights have to say, and passes on what came of questions.
    pub(super) fn fly(&mut self) {
        let Some(flights) = &mut self.flights else {
            return;
        };
        let answers = flights.answers();
        if let Some(rate) = flights.take_outrun() {
            self.outbox.outrun.send_replace(rate);
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
                Answer::Foreign(true) => self.foreign.heard(Instant::now()),
                Answer::Foreign(false) => {}
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

    /// Whether provider records say what others here do not.
    pub(super) fn asks_kademlia(&self) -> bool {
        let has_joined = self.flights.as_ref().is_some_and(Flights::has_joined);
        !has_joined || self.foreign.is_there(Instant::now())
    }

    /// Whether there is anybody for whom provider records are published.
    pub(super) fn tells_kademlia(&self) -> bool {
        self.flights.is_none() || self.foreign.is_there(Instant::now())
    }

    pub(super) fn maintain_flights(&mut self) {
        let known = self.known_peers();
        let Some(flights) = &mut self.flights else {
            return;
        };
        self.metrics.members.set(flights.members() as i64);
        self.metrics.seeks.set(flights.open_seeks() as i64);
        flights.join();
        let now = Instant::now();
        if known.iter().any(|(_, software)| software.is_foreign()) {
            self.foreign.met(now);
        }
        let has_strangers = self.foreign.is_there(now);
        self.has_strangers.store(has_strangers, Ordering::Relaxed);
        let sign = RoutingKey::of(SIGN);
        match self.foreign.sign(now) {
            Some(Sign::PutUp) => flights.hold(&[sign]),
            Some(Sign::TakeDown) => flights.release(&[sign]),
            None if flights.has_joined() && self.foreign.is_to_ask(now) => {
                flights.ask_for_foreign(&sign);
            }
            None => {}
        }
        // Members find out who is dead; Kademlia, which is hardly asked any more, would not.
        let is_dead = |(peer, software): &(PeerId, Software)| {
            software.flights && !flights.is_member(peer) && !self.swarm.is_connected(peer)
        };
        let dead: Vec<_> = known.into_iter().filter(is_dead).collect();
        for (peer, _) in dead {
            self.lose(peer);
        }
    }

    /// The peers that are connected or in the routing table, as far as they were introduced.
    fn known_peers(&mut self) -> Vec<(PeerId, Software)> {
        let mut peers: HashSet<_> = self.swarm.connected_peers().copied().collect();
        for bucket in self.swarm.behaviour_mut().kad.kbuckets() {
            peers.extend(bucket.iter().map(|entry| *entry.node.key.preimage()));
        }
        let software = |peer: PeerId| Some((peer, self.book.get(&peer)?.software));
        peers.into_iter().filter_map(software).collect()
    }

    /// Which of this node's addresses a peer has reached it by.
    pub(super) fn on_reached(&mut self, endpoint: &ConnectedPoint) {
        if let ConnectedPoint::Listener { local_addr, .. } = endpoint {
            self.on_proven(local_addr);
        }
    }

    /// A peer sees this node at this address, whatever its port.
    pub(super) fn on_proven(&mut self, address: &Multiaddr) {
        let ip: Option<IpAddr> = address.iter().find_map(|part| match part {
            Protocol::Ip4(ip) => Some(ip.into()),
            Protocol::Ip6(ip) => Some(ip.into()),
            _ => None,
        });
        if let (Some(flights), Some(ip)) = (&mut self.flights, ip) {
            flights.proven(ip);
        }
    }

    /// Tells the others that this node leaves.
    pub(super) async fn leave(&mut self) {
        let Some(flights) = &mut self.flights else {
            return;
        };
        flights.leave();
        self.fly();
        let sent = async {
            while self.has_unsent() {
                tokio::select! {
                    _ = self.swarm.select_next_some() => {}
                    () = sleep(LEAVE_INTERVAL) => {}
                }
            }
        };
        if timeout(LEAVE_TIMEOUT, sent).await.is_err() {
            tracing::debug!("not all members could be told that this node leaves");
        }
    }

    fn has_unsent(&self) -> bool {
        let behaviour = self.swarm.behaviour().flights.as_ref();
        behaviour.is_some_and(|behaviour| !behaviour.is_idle())
    }
}
