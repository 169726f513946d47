//! `/peili/flights/1`: one-way datagrams between Peili nodes.
//!
//! One long-lived stream for each peer and direction carries them, so a datagram costs little more than its bytes: no
//! stream is negotiated, no answer is awaited, and datagrams that wait are sent together. (request-response opens a
//! stream and awaits an answer for each message; the crate libp2p-stream would do, but is an alpha version, and needs a
//! task and a channel for each stream.) A datagram may be lost; its sender is usually notified. Order holds within a
//! stream.

mod allowance;
mod frames;
mod handler;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionError, ConnectionId, DialError, DialFailure,
    FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};

#[cfg(feature = "fuzzing")]
pub(crate) use frames::read_all;
use handler::{Handler, Order, Report};

pub(crate) const FLIGHTS_PROTOCOL: StreamProtocol = StreamProtocol::new("/peili/flights/1");
/// The most bytes of a datagram.
pub(crate) const MAX_LEN: usize = flights::MAX_DATAGRAM;

/// The most bytes queued for one peer. Further datagrams are not delivered.
const MAX_QUEUED: usize = 1024 * 1024;
/// The assumed cost of a queued datagram besides its bytes.
const OVERHEAD: usize = 64;
/// The most peers being dialled for datagrams.
const MAX_DIALS: usize = 512;
/// A connection without datagrams for this long counts as idle.
const IN_USE: Duration = Duration::from_secs(60);
/// If a connection breaks, datagrams handed to it within this time before count as lost.
const UNCERTAIN: Duration = Duration::from_secs(2);

/// An event for the node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Received {
        from: PeerId,
        connection: ConnectionId,
        datagrams: Vec<Bytes>,
    },
    /// One or more datagrams did not reach the peer.
    Undelivered { to: PeerId },
}

/// Datagrams on their way to a connection.
#[derive(Debug)]
pub(crate) struct Batch {
    datagrams: Vec<Bytes>,
    /// Dropped when they are sent or lost.
    unsent: Arc<()>,
}

fn queued<'a>(datagrams: impl IntoIterator<Item = &'a Bytes>) -> usize {
    let lengths = datagrams
        .into_iter()
        .map(|datagram| datagram.len() + OVERHEAD);
    lengths.sum()
}

#[derive(Debug, Default)]
struct Peer {
    /// The first one carries the datagrams.
    connections: Vec<ConnectionId>,
    waiting: Vec<Bytes>,
    /// The bytes of these datagrams.
    queued: usize,
    /// The peer's addresses, if it was not connected when the first datagram was sent.
    addresses: Vec<Multiaddr>,
    last_handed: Option<Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    /// Peers that are connected or being dialled.
    peers: HashMap<PeerId, Peer>,
    dials: usize,
    /// Connected peers with queued datagrams.
    ready: HashSet<PeerId>,
    events: VecDeque<ToSwarm<Event, Order>>,
    /// Shared by everything that is not sent yet.
    unsent: Arc<()>,
}

impl Behaviour {
    /// Sends a datagram to a peer. If it is not connected, it is dialled at `addresses` or where other behaviours know
    /// it. The swarm must be polled afterwards.
    pub(crate) fn send(
        &mut self,
        to: PeerId,
        datagram: Bytes,
        addresses: impl FnOnce() -> Vec<Multiaddr>,
    ) {
        let size = datagram.len() + OVERHEAD;
        if let Some(peer) = self.peers.get_mut(&to) {
            if peer.queued + size > MAX_QUEUED {
                return self.undelivered(to);
            }
            peer.queued += size;
            peer.waiting.push(datagram);
            if !peer.connections.is_empty() {
                self.ready.insert(to);
            }
        } else if self.dials >= MAX_DIALS {
            self.undelivered(to);
        } else {
            let peer = Peer {
                waiting: vec![datagram],
                queued: size,
                addresses: addresses(),
                ..Peer::default()
            };
            self.peers.insert(to, peer);
            self.dials += 1;
            // All behaviours that know addresses contribute, this one included.
            let opts = DialOpts::from(to);
            self.events.push_back(ToSwarm::Dial { opts });
        }
    }

    /// Closes the incoming streams of this connection.
    pub(crate) fn refuse(&mut self, from: PeerId, connection: ConnectionId) {
        self.notify(from, connection, Order::Refuse);
    }

    /// Whether the peer was sent a datagram lately.
    pub(crate) fn is_in_use(&self, id: &PeerId) -> bool {
        let last = self.peers.get(id).and_then(|peer| peer.last_handed);
        last.is_some_and(|at| at.elapsed() < IN_USE)
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_idle(&self) -> bool {
        let is_handed = self.ready.is_empty() && self.dials == 0 && self.events.is_empty();
        is_handed && Arc::strong_count(&self.unsent) == 1
    }

    fn notify(&mut self, peer_id: PeerId, connection: ConnectionId, event: Order) {
        self.events.push_back(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection),
            event,
        });
    }

    fn undelivered(&mut self, to: PeerId) {
        let event = Event::Undelivered { to };
        let is_same =
            |last: &ToSwarm<Event, Order>| matches!(last, ToSwarm::GenerateEvent(e) if *e == event);
        // A lost burst is reported once.
        if !self.events.back().is_some_and(is_same) {
            self.events.push_back(ToSwarm::GenerateEvent(event));
        }
    }

    fn hand_over(&mut self) {
        for id in std::mem::take(&mut self.ready) {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            let Some(connection) = peer.connections.first().copied() else {
                continue;
            };
            peer.last_handed = Some(Instant::now());
            peer.queued = 0;
            let batch = Batch {
                datagrams: std::mem::take(&mut peer.waiting),
                unsent: Arc::clone(&self.unsent),
            };
            self.notify(id, connection, Order::Send(batch));
        }
    }

    fn on_connected(&mut self, id: PeerId, connection: ConnectionId) {
        let peer = self.peers.entry(id).or_default();
        peer.connections.push(connection);
        if peer.connections.len() == 1 && !peer.waiting.is_empty() {
            self.dials -= 1;
            self.ready.insert(id);
        }
    }

    fn on_closed(&mut self, closed: &ConnectionClosed<'_>) {
        let id = closed.peer_id;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let carried = peer.connections.first() == Some(&closed.connection_id);
        peer.connections
            .retain(|known| *known != closed.connection_id);
        if !carried {
            return;
        }
        let broke = matches!(closed.cause, Some(ConnectionError::IO(_)));
        let handed = peer.last_handed.take();
        let mut is_lost = broke && handed.is_some_and(|at| at.elapsed() < UNCERTAIN);
        if peer.connections.is_empty() {
            is_lost |= !peer.waiting.is_empty();
            self.peers.remove(&id);
            self.ready.remove(&id);
        }
        if is_lost {
            self.undelivered(id);
        }
    }

    fn on_dial_failed(&mut self, id: PeerId, error: &DialError) {
        // The peer is being dialled already, and the result is reported here.
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.connections.is_empty() && !peer.waiting.is_empty() {
            self.dials -= 1;
            self.peers.remove(&id);
            self.undelivered(id);
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(peer))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let known = peer.and_then(|id| self.peers.get(&id));
        Ok(known.map_or_else(Vec::new, |peer| peer.addresses.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(made) => {
                self.on_connected(made.peer_id, made.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => self.on_closed(&closed),
            FromSwarm::DialFailure(DialFailure {
                peer_id: Some(peer),
                error,
                ..
            }) => self.on_dial_failed(peer, error),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        from: PeerId,
        connection: ConnectionId,
        report: THandlerOutEvent<Self>,
    ) {
        match report {
            Report::Received(datagrams) => {
                self.events
                    .push_back(ToSwarm::GenerateEvent(Event::Received {
                        from,
                        connection,
                        datagrams,
                    }));
            }
            Report::Undelivered => self.undelivered(from),
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.hand_over();
        // Events are added only by the task that polls.
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}
