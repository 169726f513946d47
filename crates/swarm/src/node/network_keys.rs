//! The keys of the network, as they change while the node runs.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::DialOpts;
use lru::LruCache;
use network_key::{Keyring, NetworkKeys};
use tokio::sync::watch;

use super::{Node, ip_of};

/// A stranger who was met longer ago is not told of.
const LATELY: Duration = Duration::from_secs(10 * 60);
/// Strangers that are remembered: those met last.
const MAX_STRANGERS: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// The keys that open connections may have been made with.
pub(super) struct KnownKeys {
    keys: Arc<NetworkKeys>,
    changes: watch::Receiver<Arc<NetworkKeys>>,
    /// Connections before this one may have been made with a key that was taken away. libp2p numbers them as they begin.
    first_good: Option<ConnectionId>,
}

impl KnownKeys {
    pub(super) fn of(keyring: &Keyring) -> Self {
        let mut changes = keyring.changes();
        let keys = changes.borrow_and_update().clone();
        Self {
            keys,
            changes,
            first_good: None,
        }
    }
}

/// Where nodes are that have no key in common with this one, and when they were met.
pub(super) struct Strangers(LruCache<IpAddr, Instant>);

impl Default for Strangers {
    fn default() -> Self {
        Self(LruCache::new(MAX_STRANGERS))
    }
}

impl Strangers {
    /// A handshake with somebody at this address was refused, by either end.
    pub(super) fn met(&mut self, ip: Option<IpAddr>, now: Instant) {
        if let Some(ip) = ip {
            self.0.put(ip, now);
        }
    }

    /// Somebody at this address has proven a key.
    pub(super) fn known(&mut self, ip: Option<IpAddr>) {
        if let Some(ip) = ip {
            self.0.pop(&ip);
        }
    }

    /// Those met lately, the last one first.
    pub(super) fn lately(&self, now: Instant) -> Vec<IpAddr> {
        let lately = self
            .0
            .iter()
            .filter(|(_, met)| now.saturating_duration_since(**met) < LATELY);
        lately.map(|(ip, _)| *ip).collect()
    }
}

/// Waits for new keys.
pub(super) async fn changed(known: &mut Option<KnownKeys>) {
    let Some(known) = known else {
        return std::future::pending().await;
    };
    if known.changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The number of the next connection that begins.
fn next_connection() -> ConnectionId {
    let nowhere = DialOpts::unknown_peer_id().address(Multiaddr::empty());
    nowhere.build().connection_id()
}

impl Node {
    /// Closes all connections if a key was taken away: any of them may have been made with it. Peers that have another one
    /// connect again.
    pub(super) fn on_new_keys(&mut self) {
        let Some(known) = &mut self.network_keys else {
            return;
        };
        let before = std::mem::replace(&mut known.keys, known.changes.borrow_and_update().clone());
        self.strangers = Strangers::default();
        if known.keys.has_all(&before) {
            return;
        }
        known.first_good = Some(next_connection());
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        tracing::info!(
            peers = peers.len(),
            "a network key was taken away; all connections to peers are made anew"
        );
        for peer in peers {
            // One that is closed already is no fault.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// Whether a connection that is made now began its handshake before a key was taken away.
    pub(super) fn has_old_key(&self, connection: ConnectionId) -> bool {
        let first_good = self
            .network_keys
            .as_ref()
            .and_then(|known| known.first_good);
        first_good.is_some_and(|first_good| connection < first_good)
    }

    /// Somebody connected and was refused.
    pub(super) fn on_stranger(&mut self, address: &Multiaddr) {
        self.metrics.handshakes_refused.inc();
        self.strangers.met(ip_of(address), Instant::now());
        tracing::debug!(%address, "refused a connection: no network key in common");
    }

    /// Why a peer and this node could not agree on a handshake.
    pub(super) fn why_refused(&self) -> &'static str {
        match &self.network_keys {
            None => {
                "a peer refused the connection: it may have a network key, and this node has none (--network-key-file)"
            }
            Some(known) if known.keys.is_empty() => {
                "this node has no network key: --network-key-file is not there"
            }
            Some(_) => {
                "a peer refused the connection: it has not the network key in --network-key-file, or none, as Spegel"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_of_until_they_prove_a_key_or_are_long_gone() {
        let (mut strangers, start) = (Strangers::default(), Instant::now());
        let ip = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        for last in 0..40 {
            strangers.met(ip(last), start);
        }
        assert_eq!(strangers.lately(start).len(), MAX_STRANGERS.get());
        strangers.known(ip(39));
        strangers.met(ip(1), start + LATELY);
        let told = |now| {
            let lately = strangers.lately(now).into_iter();
            lately.map(Some).collect::<Vec<_>>()
        };
        assert_eq!(told(start)[..2], [ip(1), ip(38)]);
        assert_eq!(told(start + LATELY), [ip(1)]);
    }
}
