//! The start of a connection on a port where peers use TLS and this node's own clients do not.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tls::{MaybeTls, PeerTls, PeerTlsState};
use tokio::time::timeout;

use crate::body::client_socket::{ClientSocket, ClientStream};
use crate::metrics::Metrics;

/// The first byte of a connection that begins with a TLS handshake (RFC 8446, section 5.1). No request begins with it.
const HANDSHAKE_RECORD: u8 = 22;
/// The limit of a handshake once its first byte has come: two round trips, and CPU on two nodes that may be busy.
/// [`ClientSocket::cut_off`] limits the wait for that byte, as for a request.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// The certificates of nodes, on a port that serves other clients too.
#[derive(Clone)]
pub struct PortTls {
    pub tls: PeerTls,
    pub metrics: Arc<Metrics>,
}

/// The certificates that secure a connection. `None`: it is not secured.
pub struct Secured(Option<(PeerTls, PeerTlsState)>);

impl Secured {
    /// Whether the client has shown the certificate of a node.
    pub fn has_certificate(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until an authority, which may be the client's, has been removed since the handshake.
    pub async fn revoked(&self) {
        match &self.0 {
            Some((tls, since)) => tls.revoked(since).await,
            None => std::future::pending().await,
        }
    }
}

/// A connection on which requests can be read.
pub type Opened = (MaybeTls<ClientStream>, Secured);

/// A connection without TLS.
pub fn plain(client: &Arc<ClientSocket>) -> Opened {
    let stream = ClientStream(client.clone());
    (MaybeTls::Plain(stream), Secured(None))
}

impl PortTls {
    /// Waits for the first byte of a connection, and does the handshake if it is TLS.
    ///
    /// # Errors
    /// The client has no certificate of a node, or breaks off.
    pub async fn open(&self, client: &Arc<ClientSocket>) -> io::Result<Opened> {
        let mut first = [0];
        let count = client.peek(&mut first).await?;
        if count == 0 || first != [HANDSHAKE_RECORD] {
            return Ok(plain(client));
        }
        let state = self.tls.current();
        let accepting = state.accept(ClientStream(client.clone()));
        let accepted = match timeout(HANDSHAKE_LIMIT, accepting).await {
            Ok(accepted) => accepted,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        match accepted {
            Ok(stream) => Ok((stream, Secured(Some((self.tls.clone(), state))))),
            Err(error) => {
                self.metrics.tls_refused.inc();
                Err(error)
            }
        }
    }
}
