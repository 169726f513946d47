//! Limits how many connections of one address may be in their handshakes at once. Without this limit, silent
//! connections of one host could keep out all others, for as long as it likes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};
use mirror::serve::counted_address;

use crate::node::ip_of;

/// One address may have 1/`PART_OF_ADDRESS` of the pending connections, or `MIN_PER_ADDRESS` if that is more. All nodes
/// behind one gateway share them, each for the milliseconds of a handshake.
const PART_OF_ADDRESS: usize = 4;
const MIN_PER_ADDRESS: usize = 8;

#[derive(Debug, thiserror::Error)]
#[error("{0} has as many connections in their handshakes as one address may have")]
struct TooMany(IpAddr);

/// Refuses connections of an address that has its share. It makes no connections and has no protocol.
#[derive(Debug)]
pub(crate) struct Behaviour {
    most_of_address: usize,
    pending: HashMap<ConnectionId, IpAddr>,
    by_address: HashMap<IpAddr, usize>,
}

impl Behaviour {
    /// `most`: the pending connections of all addresses.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most_of_address: (most / PART_OF_ADDRESS).max(MIN_PER_ADDRESS),
            pending: HashMap::new(),
            by_address: HashMap::new(),
        }
    }

    fn end(&mut self, connection: ConnectionId) {
        let Some(address) = self.pending.remove(&connection) else {
            return;
        };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let Some(address) = ip_of(remote).map(counted_address) else {
            return Ok(());
        };
        let count = self.by_address.entry(address).or_default();
        if *count >= self.most_of_address {
            return Err(ConnectionDenied::new(TooMany(address)));
        }
        *count += 1;
        self.pending.insert(connection, address);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.end(connection);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ListenFailure(failure) = event {
            self.end(failure.connection_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;
    use libp2p::swarm::ListenError;
    use libp2p::swarm::behaviour::ListenFailure;

    use super::*;
    use crate::behaviour;

    /// The most connections to the router. An eighth of them may be in their handshakes.
    const MAX_PENDING: usize = 8 * 64;

    struct Host {
        behaviour: behaviour::Behaviour,
        connections: usize,
    }

    fn local() -> Multiaddr {
        "/ip4/10.0.0.1/tcp/5001".parse().expect("an address")
    }

    impl Host {
        fn new() -> Self {
            let keypair = Keypair::generate_ed25519();
            Self {
                behaviour: behaviour::Behaviour::new(&keypair, "n1", true, MAX_PENDING),
                connections: 0,
            }
        }

        /// A client connects and sends nothing. Returns the connection, if it is accepted.
        fn connect(&mut self, from: &str) -> Option<ConnectionId> {
            self.connections += 1;
            let connection = ConnectionId::new_unchecked(self.connections);
            let remote: Multiaddr = from.parse().expect("an address");
            let handled =
                self.behaviour
                    .handle_pending_inbound_connection(connection, &local(), &remote);
            match handled {
                Ok(()) => Some(connection),
                Err(cause) => {
                    self.fail(connection, &remote, &ListenError::Denied { cause });
                    None
                }
            }
        }

        /// Reports a failed connection, as the swarm does.
        fn fail(&mut self, connection_id: ConnectionId, remote: &Multiaddr, error: &ListenError) {
            let failure = ListenFailure {
                local_addr: &local(),
                send_back_addr: remote,
                error,
                connection_id,
                peer_id: None,
            };
            self.behaviour
                .on_swarm_event(FromSwarm::ListenFailure(failure));
        }
    }

    #[test]
    fn silent_connections_of_one_address_keep_nobody_else_out() {
        let mut host = Host::new();
        let taken: Vec<_> = (0..MAX_PENDING)
            .filter_map(|port| host.connect(&format!("/ip4/10.0.0.9/tcp/{port}")))
            .collect();
        assert_eq!(taken.len(), 16);
        assert!(host.connect("/ip4/10.0.0.8/tcp/1").is_some());
        // A closed connection makes room for the next.
        let remote = "/ip4/10.0.0.9/tcp/1".parse().expect("an address");
        host.fail(taken[0], &remote, &ListenError::Aborted);
        assert!(host.connect("/ip4/10.0.0.9/tcp/1").is_some());
        assert!(host.connect("/ip4/10.0.0.9/tcp/2").is_none());
    }

    #[test]
    fn a_handshake_that_succeeds_makes_room() {
        let mut host = Host::new();
        let remote: Multiaddr = "/ip4/10.0.0.9/tcp/1".parse().expect("an address");
        for peer in 0..MAX_PENDING {
            let connection = host.connect("/ip4/10.0.0.9/tcp/1");
            let connection = connection.unwrap_or_else(|| panic!("connection {peer} is refused"));
            let established = host.behaviour.handle_established_inbound_connection(
                connection,
                PeerId::random(),
                &local(),
                &remote,
            );
            assert!(established.is_ok());
        }
    }

    #[test]
    fn a_host_has_one_share_of_all_its_ipv6_addresses() {
        let mut host = Host::new();
        let of_one =
            (0..MAX_PENDING).filter(|n| host.connect(&format!("/ip6/fd00::{n:x}/tcp/1")).is_some());
        assert_eq!(of_one.count(), 16);
        assert!(host.connect("/ip6/fd00:0:0:1::1/tcp/1").is_some());
        // An IPv4 address counts once, in any notation.
        for n in 0..16 {
            let address = ["/ip4/10.0.0.9/tcp/1", "/ip6/::ffff:a00:9/tcp/1"][n % 2];
            assert!(host.connect(address).is_some(), "{n}");
        }
        assert!(host.connect("/ip4/10.0.0.9/tcp/1").is_none());
    }
}
