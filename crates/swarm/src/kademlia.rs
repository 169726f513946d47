//! Kademlia, with a limit for the requests of peers that is lower than the one for their answers.
//!
//! libp2p has one limit for both. Answers have to be long, but this node asks for them, and waits for a limited time.
//! Requests are short, and any peer can leave 32 of them incomplete on each of its connections for as long as it likes.

use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::kad::{self, store::MemoryStore};
use libp2p::swarm::handler::{ConnectionEvent, ConnectionHandlerEvent};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionId, FromSwarm, NetworkBehaviour,
    SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};

use crate::publish::RECORD_TTL;
use crate::store::ProviderStore;

/// Spegel's distributed hash table.
pub(crate) const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/spegel/kad/1.0.0");
/// The limit of one request of a lookup. A silent peer delays a lookup by this much until a ping shows that it is dead.
/// With a shorter limit, live peers would be dropped while many nodes start at once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The limit of a lookup or announcement as a whole.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a peer's request, as in identify. The longest is the announcement of a key with all addresses of
/// the peer: this is enough for 180. (rust-libp2p announces 20 of them, go-libp2p all.) With libp2p's buffers a stream
/// takes 24 KiB at the most, and the 32 of a connection 768 KiB: 12 MiB for an address whose peers are no members, by
/// [`crate::node::connections::MAX_OF_ADDRESS`], and 192 MiB in all, by [`crate::node::connections::KEPT_CONNECTIONS`].
const MAX_REQUEST: usize = 4 * 1024;
/// The most bytes of an answer to this node. The default of 16 KiB is too small for a popular key: go-libp2p answers
/// with all providers that it knows, at some 150 bytes each; this is enough for 800.
const MAX_ANSWER: usize = 128 * 1024;

type Inner = kad::Behaviour<ProviderStore>;
type InnerHandler = THandler<Inner>;
type Requests = <InnerHandler as ConnectionHandler>::InboundProtocol;

/// Kademlia's behaviour, whose connections read requests of [`MAX_REQUEST`] bytes at the most.
pub(crate) struct Behaviour {
    inner: Inner,
    requests: Requests,
}

impl Behaviour {
    pub(crate) fn new(id: PeerId) -> Self {
        let mut inner = Inner::with_config(id, ProviderStore::new(id), config(MAX_ANSWER));
        inner.set_mode(Some(kad::Mode::Server));
        Self {
            inner,
            requests: requests(id),
        }
    }

    fn limited(&self, inner: InnerHandler) -> Handler {
        Handler {
            inner,
            requests: self.requests.clone(),
        }
    }
}

fn config(max_message: usize) -> kad::Config {
    let mut config = kad::Config::new(KAD_PROTOCOL);
    config
        .set_query_timeout(QUERY_TIMEOUT)
        .set_substreams_timeout(REQUEST_TIMEOUT)
        .set_max_packet_size(max_message)
        .set_provider_record_ttl(Some(RECORD_TTL))
        // This node's publisher renews its own keys, one after the other.
        .set_provider_publication_interval(None)
        // Values are not part of the protocol, and incoming records are checked first.
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        // The bootstrapper's rounds refresh the table.
        .set_periodic_bootstrap_interval(None);
    config
}

/// The protocol of incoming streams. libp2p gives it out with a connection only, so this takes it from one that is never
/// used.
fn requests(id: PeerId) -> Requests {
    let store = MemoryStore::new(id);
    let mut unused = kad::Behaviour::with_config(id, store, config(MAX_REQUEST));
    unused.set_mode(Some(kad::Mode::Server));
    let nowhere = Multiaddr::empty();
    let connection = ConnectionId::new_unchecked(0);
    let handler = unused.handle_established_inbound_connection(connection, id, &nowhere, &nowhere);
    let handler = handler.expect("Kademlia denies no connection");
    handler.listen_protocol().into_upgrade().0
}

impl Deref for Behaviour {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Behaviour {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = kad::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        let handler = self
            .inner
            .handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(self.limited(handler))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        let handler = self
            .inner
            .handle_established_outbound_connection(connection, peer, address, role, port)?;
        Ok(self.limited(handler))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<kad::Event, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}

/// Kademlia's handler of a connection, with its own protocol of incoming streams.
pub(crate) struct Handler {
    inner: InnerHandler,
    requests: Requests,
}

type OutboundProtocol = <InnerHandler as ConnectionHandler>::OutboundProtocol;
type ToBehaviour = <InnerHandler as ConnectionHandler>::ToBehaviour;

impl ConnectionHandler for Handler {
    type FromBehaviour = <InnerHandler as ConnectionHandler>::FromBehaviour;
    type ToBehaviour = ToBehaviour;
    type InboundProtocol = Requests;
    type OutboundProtocol = OutboundProtocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Requests> {
        SubstreamProtocol::new(self.requests.clone(), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<OutboundProtocol, (), ToBehaviour>> {
        self.inner.poll(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Requests, OutboundProtocol>) {
        self.inner.on_connection_event(event);
    }
}

#[cfg(test)]
mod tests;
