//! Handles the events of the swarm.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use libp2p::core::ConnectedPoint;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, kad, ping};

use super::{Node, ip_of};
use crate::addresses::{Endpoint, MAX_ADDRESSES, Sockets, Software};
use crate::agent::Agent;
use crate::behaviour::BehaviourEvent;
use crate::datagrams::FLIGHTS_PROTOCOL;
use crate::handshake;
use crate::kademlia::KAD_PROTOCOL;
use crate::key::RoutingKey;

impl Node {
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.on_kad(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => self.on_introduction(peer_id, &info),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(event),
            SwarmEvent::Behaviour(BehaviourEvent::Flights(event)) => self.on_datagram(event),
            SwarmEvent::NewListenAddr { address, .. } => self.on_own_address(&address, true),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_own_address(&address, false),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.on_connected(peer_id, connection_id, &endpoint),
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                // Idle, closed by the peer, or broken: the peer may be alive, as the next dial will show.
                self.connections.remove(connection_id);
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id,
                connection_id,
                error,
            } => self.on_dial_failed(peer_id, connection_id, &error),
            SwarmEvent::IncomingConnectionError {
                error: ListenError::Transport(error),
                send_back_addr,
                ..
            } if handshake::is_refusal(&error) => self.on_stranger(&send_back_addr),
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "cannot take a connection from a peer");
            }
            SwarmEvent::ListenerClosed {
                addresses, reason, ..
            } => {
                let error = reason.err().map(tracing::field::display);
                tracing::error!(
                    ?addresses,
                    error,
                    "no longer listens for peers; the router ends"
                );
                self.listener_lost = true;
            }
            _ => {}
        }
    }

    /// Handles an interface of this node that was added or removed.
    fn on_own_address(&mut self, address: &Multiaddr, new: bool) {
        let Some(router) = Endpoint::router(address) else {
            return;
        };
        let registry = SocketAddr::new(router.ip(), self.registry_port);
        let tell = self.filter.tells(&router);
        for endpoint in [Endpoint::Router(router), Endpoint::Registry(registry)] {
            let socket = endpoint.socket();
            let address = Multiaddr::from(endpoint);
            if new {
                self.filter.add_own(socket);
            } else {
                self.filter.remove_own(&socket);
            }
            if new && tell {
                self.swarm.add_external_address(address);
            } else if tell {
                self.swarm.remove_external_address(&address);
            }
        }
        let told: Vec<_> = self.swarm.external_addresses().cloned().collect();
        let store = self.swarm.behaviour_mut().kad.store_mut();
        store.set_own_addresses(told.clone());
        if let Some(flights) = &mut self.flights {
            flights.set_addresses(told.iter().filter_map(Endpoint::parse).collect());
        }
        self.outbox.addresses.send_replace(told);
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        if let ConnectedPoint::Dialer { address, .. } = endpoint
            && let Some(socket) = Endpoint::router(address)
        {
            self.book.reached(peer, socket);
            self.filter.proven.lock().reached(peer, &socket);
        }
        if self.has_old_credentials(connection) {
            self.swarm.close_connection(connection);
        }
        self.filter.proven.lock().met(peer);
        self.refused_nodes
            .known(ip_of(endpoint.get_remote_address()));
        self.on_reached(endpoint);
        if let ConnectedPoint::Listener { send_back_addr, .. } = endpoint {
            self.came_from.put(peer, ip_of(send_back_addr));
        }
        let ip = ip_of(endpoint.get_remote_address());
        self.connections.add(connection, peer, ip);
        let members = self.flights.as_ref();
        let datagrams = self.swarm.behaviour().flights.as_ref();
        let surplus = self.connections.take_surplus(
            |peer| members.is_none_or(|members| members.is_member(peer)),
            |peer| datagrams.is_some_and(|datagrams| datagrams.is_in_use(peer)),
        );
        if let Some(surplus) = surplus {
            self.swarm.close_connection(surplus);
        }
        if let Some(round) = &mut self.round {
            round.established(connection);
            self.advance_round();
        }
    }

    fn on_dial_failed(
        &mut self,
        peer: Option<PeerId>,
        connection: ConnectionId,
        error: &DialError,
    ) {
        tracing::debug!(?peer, %error, "cannot connect to a peer");
        let refused: Vec<_> = handshake::refused(error).collect();
        let why = match refused.is_empty() {
            true => handshake::describe(error),
            false => self.why_refused().to_owned(),
        };
        if !refused.is_empty() {
            self.metrics.handshakes_refused.inc();
        }
        for address in refused {
            self.refused_nodes.met(ip_of(address), Instant::now());
        }
        if let Some(round) = &mut self.round {
            round.failed(connection, why);
            self.advance_round();
        }
        if !matches!(
            error,
            DialError::Transport(_) | DialError::WrongPeerId { .. }
        ) {
            return;
        }
        self.metrics.dials_failed.inc();
        if let Some(peer) = peer.filter(|peer| !self.swarm.is_connected(peer)) {
            self.lose(peer);
        }
    }

    fn on_introduction(&mut self, peer: PeerId, info: &identify::Info) {
        let told = Sockets::of(&self.filter, &info.listen_addrs);
        let software = Software {
            flights: info.protocols.contains(&FLIGHTS_PROTOCOL),
            kademlia: info.protocols.contains(&KAD_PROTOCOL),
            agent: Agent::parse(&info.agent_version),
        };
        if software.kademlia {
            let kad = &mut self.swarm.behaviour_mut().kad;
            let room = kad.kbucket(peer).and_then(|bucket| {
                let mut entries = bucket.iter();
                let entry = entries.find(|entry| *entry.node.key.preimage() == peer)?;
                Some(MAX_ADDRESSES.saturating_sub(entry.node.value.len()))
            });
            for socket in told.router.iter().take(room.unwrap_or(MAX_ADDRESSES)) {
                kad.add_address(&peer, Endpoint::Router(*socket).into());
            }
        }
        let (is_legacy, takes_part) = (software.is_legacy(), software.flights);
        self.prove_introduction(peer, &told, &software);
        self.book.introduced(peer, told, software);
        self.on_proven(&info.observed_addr);
        if is_legacy {
            self.legacy_peers.met(Instant::now());
            self.has_legacy_peers.store(true, Ordering::Relaxed);
        } else if takes_part && let Some(flights) = &mut self.flights {
            flights.met(&peer);
        }
    }

    /// Records that a peer connected to this node from an address that it reports. If it came from elsewhere, through a
    /// gateway or because it lies, this node connects to a reported address: that proves it.
    fn prove_introduction(&mut self, peer: PeerId, told: &Sockets, software: &Software) {
        let Some(Some(ip)) = self.came_from.pop(&peer) else {
            return;
        };
        let mut proven = self.filter.proven.lock();
        if told
            .router
            .iter()
            .any(|socket| socket.ip().to_canonical() == ip)
        {
            return proven.is_at(peer, ip);
        }
        let is_proven = proven.ips(&peer).is_some_and(|ips| !ips.is_empty());
        drop(proven);
        if (software.flights || software.kademlia) && !is_proven {
            self.prove(peer, &told.router);
        }
    }

    /// Connects to an address that a peer, or others, report for it.
    pub(super) fn prove(&mut self, peer: PeerId, routers: &[SocketAddr]) {
        if routers.is_empty() {
            return;
        }
        let addresses = routers.iter().map(|socket| Endpoint::Router(*socket));
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::NotDialing)
            .addresses(addresses.map(Multiaddr::from).collect());
        if let Err(error) = self.swarm.dial(options.build()) {
            tracing::debug!(%peer, %error, "cannot prove where a peer is");
        }
    }

    fn on_ping(&mut self, event: ping::Event) {
        let ping::Event {
            peer,
            connection,
            result,
        } = event;
        match result {
            Err(ping::Failure::Timeout) => {
                self.swarm.close_connection(connection);
                self.connections.remove(connection);
                if !self.connections.has(&peer) {
                    self.lose(peer);
                }
            }
            // The connection is broken. The next dial shows whether the peer is alive.
            Err(ping::Failure::Other { .. }) => {
                self.swarm.close_connection(connection);
            }
            Ok(_) | Err(ping::Failure::Unsupported) => {}
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::RoutingUpdated { .. } => {
                self.on_table_change();
                self.advance_round();
            }
            kad::Event::InboundRequest {
                request:
                    kad::InboundRequest::AddProvider {
                        record: Some(record),
                    },
            } => self.on_record(&record),
            kad::Event::OutboundQueryProgressed {
                id,
                result,
                stats,
                step,
            } => self.on_progress(id, result, &stats, step.last),
            _ => {}
        }
    }

    /// Handles a peer's record that it has a key. Kademlia has checked that the peer speaks for itself.
    fn on_record(&mut self, record: &kad::ProviderRecord) {
        if let Ok(key) = RoutingKey::try_from(&record.key)
            && let Some(expires) = record.expires
        {
            let store = self.swarm.behaviour_mut().kad.store_mut();
            store.insert(key, record.provider, &record.addresses, expires);
        }
    }
}
