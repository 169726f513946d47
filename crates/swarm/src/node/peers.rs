//! The peers of this node, to be shown.

use std::collections::HashSet;
use std::time::Instant;

use libp2p::PeerId;
use mirror::{MAX_LISTED_PEERS, PeerMembership, RouterPeer, RouterPeers};

use super::Node;
use crate::addresses::Known;
use crate::flights::{Flights, mirror_peer};

impl Node {
    /// The members, and the legacy peers that are connected or in the routing table.
    pub(super) fn shown_peers(&mut self) -> RouterPeers {
        let members = self.flights.as_ref().map(Flights::others);
        let members = members.unwrap_or_default();
        let mut shown = RouterPeers {
            count: members.len(),
            refused_nodes: self.refused_nodes.lately(Instant::now()),
            ..RouterPeers::default()
        };
        let known: HashSet<PeerId> = members.iter().map(|(peer, ..)| *peer).collect();
        for (peer, addresses, is_suspected) in members.into_iter().take(MAX_LISTED_PEERS) {
            let membership = match is_suspected {
                true => PeerMembership::Suspected,
                false => PeerMembership::Member,
            };
            shown.listed.push(self.shown(&peer, addresses, membership));
        }
        let others = self.known_peers().into_iter();
        let others = others.filter(|(peer, software)| {
            // A peer that takes part in flights is listed as a member, or is about to become one.
            !known.contains(peer) && (software.is_legacy() || self.flights.is_none())
        });
        let others: Vec<_> = others.collect();
        shown.count += others.len();
        for (peer, software) in others {
            if shown.listed.len() >= MAX_LISTED_PEERS {
                break;
            }
            let known = self.book.get(&peer);
            let addresses = known.map(|known| known.registries(&self.filter, self.registry_port));
            let membership = match software.flights {
                true => PeerMembership::Member,
                false => PeerMembership::Legacy,
            };
            let shown_peer = self.shown(&peer, addresses.unwrap_or_default(), membership);
            shown.listed.push(shown_peer);
        }
        shown
    }

    fn shown(
        &self,
        peer: &PeerId,
        addresses: Vec<std::net::SocketAddr>,
        membership: PeerMembership,
    ) -> RouterPeer {
        let known = self.book.get(peer);
        let agent = known.map(|Known { software, .. }| software.agent.clone());
        let agent = agent.unwrap_or_default();
        RouterPeer {
            peer: mirror_peer(peer),
            addresses: addresses.into(),
            routers: known.map(Known::routers).unwrap_or_default().into(),
            name: agent.name,
            version: agent.version,
            membership,
        }
    }
}
