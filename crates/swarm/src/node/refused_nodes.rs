//! The addresses of nodes that cannot be peers: they have no network key or no certificate authority in common with
//! this node.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

/// A node that was refused longer ago is no longer reported.
const LATELY: Duration = Duration::from_secs(10 * 60);
/// The most refused nodes to remember: those met last.
const MAX_REFUSED_NODES: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// The addresses of refused nodes, and when they were met last.
pub(super) struct RefusedNodes(LruCache<IpAddr, Instant>);

impl Default for RefusedNodes {
    fn default() -> Self {
        Self(LruCache::new(MAX_REFUSED_NODES))
    }
}

impl RefusedNodes {
    /// Records that a handshake with a node at this address was refused, by either end.
    pub(super) fn met(&mut self, ip: Option<IpAddr>, now: Instant) {
        if let Some(ip) = ip {
            self.0.put(ip, now);
        }
    }

    /// Records that a node at this address has become a peer.
    pub(super) fn known(&mut self, ip: Option<IpAddr>) {
        if let Some(ip) = ip {
            self.0.pop(&ip);
        }
    }

    /// The nodes met lately, the latest first.
    pub(super) fn lately(&self, now: Instant) -> Vec<IpAddr> {
        let lately = self
            .0
            .iter()
            .filter(|(_, met)| now.saturating_duration_since(**met) < LATELY);
        lately.map(|(ip, _)| *ip).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_of_until_they_prove_a_key_or_are_long_gone() {
        let (mut refused_nodes, start) = (RefusedNodes::default(), Instant::now());
        let ip = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        for last in 0..40 {
            refused_nodes.met(ip(last), start);
        }
        assert_eq!(refused_nodes.lately(start).len(), MAX_REFUSED_NODES.get());
        refused_nodes.known(ip(39));
        refused_nodes.met(ip(1), start + LATELY);
        let told = |now| {
            let lately = refused_nodes.lately(now).into_iter();
            lately.map(Some).collect::<Vec<_>>()
        };
        assert_eq!(told(start)[..2], [ip(1), ip(38)]);
        assert_eq!(told(start + LATELY), [ip(1)]);
    }
}
