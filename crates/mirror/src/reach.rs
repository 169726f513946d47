//! Determines for the doctor which peers can be reached, which peers reach this node, and what their clocks show. A
//! request is sent to each peer, as for content, so that a closed port or a wrong certificate shows before a pull needs
//! the peer.

use std::collections::HashMap;

use futures::future::join_all;
use rand::seq::SliceRandom as _;

use crate::fetch::PeerAnswer;
use crate::mirror::Mirror;
use crate::snapshot::Peer;
use crate::{Candidate, PeerId};

/// The answers of peers, or why a peer cannot be reached, by the peers' ids.
pub type Reached = HashMap<String, Result<PeerAnswer, String>>;

/// The most peers that are asked.
const MAX_ASKED: usize = 64;

impl Mirror {
    /// Asks these peers, 64 of them at most, chosen at random. Takes 2 s at most.
    pub async fn reach_peers(&self, peers: &[Peer]) -> Reached {
        let candidates = peers.iter().filter_map(|peer| {
            let addresses = peer.addresses.iter().filter(|address| address.port() > 0);
            let candidate = Candidate {
                peer: PeerId::new(peer.node.as_ref()?),
                addresses: addresses.copied().collect(),
            };
            (!candidate.addresses.is_empty()).then_some(candidate)
        });
        let mut candidates: Vec<_> = candidates.collect();
        candidates.shuffle(&mut rand::rng());
        candidates.truncate(MAX_ASKED);
        let own = self.router.own_id();
        let asked = candidates.iter().map(async |candidate| {
            let first = self.fetcher.reach(candidate, own.as_ref()).await;
            let answer = match first {
                // A lost packet is no closed port.
                Err(_) => self.fetcher.reach(candidate, own.as_ref()).await,
                Ok(answer) => Ok(answer),
            };
            (candidate.peer.to_string(), answer)
        });
        join_all(asked).await.into_iter().collect()
    }
}
