//! The keys of the network, as they change while the node runs.

use std::sync::Arc;

use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::DialOpts;
use network_key::{Keyring, NetworkKeys};
use tokio::sync::watch;

use super::Node;

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
