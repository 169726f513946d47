//! The open connections, and which of them are closed beyond the limits.

use std::collections::VecDeque;
use std::net::IpAddr;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use mirror::serve::counted_address;

/// The most open connections kept; beyond that, the oldest one not in use is closed. Enough for the routing table of a
/// cluster of any size (some 200 at 10,000 nodes) or for all owners of slots (at most 192), at some 30 KB each.
/// Incomplete requests of Kademlia on all of them take 192 MiB at the most.
pub(crate) const KEPT_CONNECTIONS: usize = 256;
/// The most open connections kept of one IP address (IPv6: /64) to peers that are no members; beyond that, the oldest one not
/// in use is closed. Identities are free, so without this limit one host could have nearly all connections. Incomplete requests
/// of Kademlia on these take 12 MiB at the most. Members do not count, because all of them may be behind one gateway,
/// nor does loopback, where nodes share an address.
pub(crate) const MAX_OF_ADDRESS: usize = 16;

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    peer: PeerId,
    address: Option<IpAddr>,
}

/// The open connections, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Connections(VecDeque<Connection>);

impl Connections {
    pub(super) fn add(&mut self, id: ConnectionId, peer: PeerId, ip: Option<IpAddr>) {
        let address = ip.filter(|ip| !ip.is_loopback()).map(counted_address);
        self.0.push_back(Connection { id, peer, address });
    }

    pub(super) fn remove(&mut self, id: ConnectionId) {
        self.0.retain(|connection| connection.id != id);
    }

    pub(super) fn has(&self, peer: &PeerId) -> bool {
        self.0.iter().any(|connection| connection.peer == *peer)
    }

    /// Removes the connection that the latest one replaces, if there are too many.
    pub(super) fn take_surplus(
        &mut self,
        is_member: impl Fn(&PeerId) -> bool,
        is_in_use: impl Fn(&PeerId) -> bool,
    ) -> Option<ConnectionId> {
        let unused = |connection: &Connection| !is_in_use(&connection.peer);
        let surplus = self.surplus_of_address(is_member, unused).or_else(|| {
            let surplus = || self.0.iter().position(unused).unwrap_or(0);
            (self.0.len() > KEPT_CONNECTIONS).then(surplus)
        })?;
        self.0.remove(surplus).map(|connection| connection.id)
    }

    fn surplus_of_address(
        &self,
        is_member: impl Fn(&PeerId) -> bool,
        unused: impl Fn(&Connection) -> bool,
    ) -> Option<usize> {
        let address = self.0.back()?.address?;
        let counts = |connection: &Connection| {
            connection.address == Some(address) && !is_member(&connection.peer)
        };
        let counted = || self.0.iter().enumerate().filter(|(_, c)| counts(c));
        let oldest = counted()
            .find(|(_, c)| unused(c))
            .or_else(|| counted().next());
        let (oldest, _) = oldest?;
        (counted().count() > MAX_OF_ADDRESS).then_some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    /// Adds connections of one peer each. Returns the peers, and the connections that are closed for them.
    fn connect(
        connections: &mut Connections,
        numbers: std::ops::Range<usize>,
        address: impl Fn(usize) -> Option<IpAddr>,
        is_member: bool,
    ) -> Vec<ConnectionId> {
        let add = |number| {
            let id = ConnectionId::new_unchecked(number);
            connections.add(id, PeerId::random(), address(number));
            connections.take_surplus(|_| is_member, |_| false)
        };
        numbers.filter_map(add).collect()
    }

    fn ids(numbers: std::ops::Range<usize>) -> Vec<ConnectionId> {
        numbers.map(ConnectionId::new_unchecked).collect()
    }

    #[test]
    fn identities_of_one_address_have_a_limited_number_of_connections() {
        let mut connections = Connections::default();
        let other = connect(&mut connections, 0..1, |_| ip("10.0.0.8"), false);
        assert!(other.is_empty());
        let closed = connect(&mut connections, 1..241, |_| ip("10.0.0.9"), false);
        assert_eq!(closed, ids(1..225), "all but the latest 16 of the address");
        let (host, next) = ("fd00::", "fd00:0:0:1::1");
        let address = |number| ip(&format!("{host}{number:x}"));
        let closed = connect(&mut connections, 241..258, address, false);
        assert_eq!(closed, ids(241..242), "a /64 is one host");
        assert!(connect(&mut connections, 258..259, |_| ip(next), false).is_empty());
    }

    #[test]
    fn members_behind_one_gateway_and_nodes_on_loopback_do_not_count() {
        for (address, is_member) in [("10.0.0.9", true), ("127.0.0.1", false), ("::1", false)] {
            let mut connections = Connections::default();
            let last = KEPT_CONNECTIONS + 1;
            let closed = connect(&mut connections, 0..last, |_| ip(address), is_member);
            assert_eq!(closed, ids(0..1), "{address}: the limit of all");
        }
    }

    #[test]
    fn strangers_close_no_connection_of_a_member_at_their_address() {
        let mut connections = Connections::default();
        let member = PeerId::random();
        let first = ConnectionId::new_unchecked(1_000);
        connections.add(first, member, ip("10.0.0.9"));
        for number in 0..100 {
            let id = ConnectionId::new_unchecked(number);
            connections.add(id, PeerId::random(), ip("10.0.0.9"));
            connections.take_surplus(|peer| *peer == member, |_| false);
        }
        assert!(connections.has(&member));
        connections.remove(first);
        assert!(!connections.has(&member));
    }
}
