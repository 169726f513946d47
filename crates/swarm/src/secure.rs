//! TLS beneath Noise, if nodes have certificates: without one, a client reaches no protocol of this node.
//!
//! Noise still proves the identity of a peer. Why both: `docs/decisions/0017-mutual-tls.md`.

use std::io;

use libp2p::core::ConnectedPoint;
use libp2p::tcp::tokio::TcpStream;
use tls::{MaybeTls, PeerTls};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

/// Why TLS with the other end failed.
#[derive(Debug, thiserror::Error)]
#[error("no TLS with the other end (--peer-tls-dir)")]
pub(crate) struct SecureError(#[source] io::Error);

/// Secures a connection, if there are certificates. libp2p's limit for a handshake applies.
pub(crate) async fn secure(
    tls: Option<PeerTls>,
    TcpStream(stream): TcpStream,
    point: ConnectedPoint,
) -> Result<Compat<MaybeTls<tokio::net::TcpStream>>, SecureError> {
    let secured = match tls.map(|tls| tls.current()) {
        None => Ok(MaybeTls::Plain(stream)),
        Some(tls) if point.is_dialer() => tls.connect(stream).await,
        Some(tls) => tls.accept(stream).await,
    };
    secured.map(MaybeTls::compat).map_err(SecureError)
}
