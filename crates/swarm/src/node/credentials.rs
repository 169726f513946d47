//! The credentials that peers need: a key of the network, a certificate, both or nothing. They change while the node
//! runs.

use std::sync::Arc;
use std::time::Instant;

use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::DialOpts;
use network_key::{Keyring, NetworkKeys};
use tls::{PeerTls, PeerTlsState};
use tokio::sync::watch;

use super::refused_nodes::RefusedNodes;
use super::{Node, ip_of};

/// The credentials with which open connections may have been made.
pub(crate) struct Credentials {
    /// `None`: the network has no key.
    keys: Option<Known<Arc<NetworkKeys>>>,
    /// `None`: there is no TLS.
    certificates: Option<Known<PeerTlsState>>,
    /// Connections before this one may have been made with credentials that were removed since. libp2p numbers them as
    /// they begin.
    first_good: Option<ConnectionId>,
}

struct Known<T> {
    current: T,
    changes: watch::Receiver<T>,
}

impl<T: Clone> Known<T> {
    fn of(mut changes: watch::Receiver<T>) -> Self {
        let current = changes.borrow_and_update().clone();
        Self { current, changes }
    }

    /// The credentials in force until now.
    fn update(&mut self) -> T {
        let current = self.changes.borrow_and_update().clone();
        std::mem::replace(&mut self.current, current)
    }
}

impl Credentials {
    pub(crate) fn new(keys: Option<Keyring>, tls: Option<PeerTls>) -> Self {
        Self {
            keys: keys.map(|keys| Known::of(keys.changes())),
            certificates: tls.map(|tls| Known::of(tls.changes())),
            first_good: None,
        }
    }

    /// Waits for new credentials.
    pub(super) async fn changed(&mut self) {
        let keys = self.keys.as_mut().map(|known| &mut known.changes);
        let certificates = self.certificates.as_mut().map(|known| &mut known.changes);
        tokio::select! {
            () = changed(keys) => {}
            () = changed(certificates) => {}
        }
    }

    /// Puts new credentials in force. Returns which kind was removed, if any.
    fn update(&mut self) -> Option<&'static str> {
        let key_taken = self.keys.as_mut().is_some_and(|known| {
            let before = known.update();
            !known.current.has_all(&before)
        });
        let authority_taken = self.certificates.as_mut().is_some_and(|known| {
            let before = known.update();
            known.current.revocations != before.revocations
        });
        match (key_taken, authority_taken) {
            (_, true) => Some("a certificate authority"),
            (true, false) => Some("a network key"),
            (false, false) => None,
        }
    }
}

async fn changed<T>(changes: Option<&mut watch::Receiver<T>>) {
    let is_changed = match changes {
        Some(changes) => changes.changed().await.is_ok(),
        None => false,
    };
    if !is_changed {
        std::future::pending::<()>().await;
    }
}

/// The number of the next connection.
fn next_connection() -> ConnectionId {
    let nowhere = DialOpts::unknown_peer_id().address(Multiaddr::empty());
    nowhere.build().connection_id()
}

impl Node {
    /// Closes all connections if a key or an authority was removed: any of them may have been made with it. Peers that
    /// have another one connect again.
    pub(super) fn on_new_credentials(&mut self) {
        // They are met again, or are peers now.
        self.refused_nodes = RefusedNodes::default();
        let Some(taken) = self.credentials.update() else {
            return;
        };
        self.credentials.first_good = Some(next_connection());
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        tracing::info!(
            peers = peers.len(),
            "{taken} was removed; reconnecting to all peers"
        );
        for peer in peers {
            // It may be closed already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// Whether a connection that is established now began its handshake before a key or an authority was removed.
    pub(super) fn has_old_credentials(&self, connection: ConnectionId) -> bool {
        let first_good = self.credentials.first_good;
        first_good.is_some_and(|first_good| connection < first_good)
    }

    /// Handles a node that connected and was refused.
    pub(super) fn on_stranger(&mut self, address: &Multiaddr) {
        self.metrics.handshakes_refused.inc();
        self.refused_nodes.met(ip_of(address), Instant::now());
        tracing::debug!(%address, "refused a connection: no network key or no certificate authority in common");
    }

    /// Why a peer and this node could not agree on a handshake.
    pub(super) fn why_refused(&self) -> &'static str {
        let Credentials {
            keys, certificates, ..
        } = &self.credentials;
        match (keys, certificates) {
            (None, None) => {
                "a peer refused the connection: it may have a network key or a certificate, and this node has none \
                 (--network-key-file, --peer-tls-dir)"
            }
            (Some(known), _) if known.current.is_empty() => {
                "this node has no network key: --network-key-file is not there"
            }
            (Some(_), None) => {
                "a peer refused the connection: it has not the network key in --network-key-file, or none, as Spegel"
            }
            (None, Some(_)) => {
                "no TLS with a peer: one of the two has no certificate of the authorities in the other's --peer-tls-dir"
            }
            (Some(_), Some(_)) => {
                "no TLS with a peer, or no network key in common: the nodes' --peer-tls-dir or --network-key-file differ"
            }
        }
    }
}
