//! TLS beneath Noise, if nodes have certificates: without one, a client reaches no protocol of this node.
//!
//! Noise still proves the identity of a peer. Why both: `docs/decisions/0017-mutual-tls.md`.

use std::io;

use libp2p::core::ConnectedPoint;
use libp2p::tcp::tokio::TcpStream;
use tls::{MaybeTls, PeerTls};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

#[derive(Debug, thiserror::Error)]
pub(crate) enum SecureError {
    #[error("no TLS with the other end (--peer-tls-dir)")]
    Tls(#[source] io::Error),
    #[error("the other end is no libp2p node")]
    NotLibp2p,
    #[error("the connection broke before its first byte")]
    Broken(#[source] io::Error),
}

/// Every connection of libp2p begins with this (multistream-select 1.0).
const MULTISTREAM: &[u8] = b"\x13/multistream/1.0.0\n";

/// Secures a connection, if there are certificates. libp2p's limit for a handshake applies.
///
/// An incoming connection that does not begin as libp2p's do fails here: that of a health check, of a scan, or of a peer
/// that tries whether the port is open. Later it would look like a node without a network key in common.
pub(crate) async fn secure(
    tls: Option<PeerTls>,
    TcpStream(stream): TcpStream,
    point: ConnectedPoint,
) -> Result<Compat<MaybeTls<tokio::net::TcpStream>>, SecureError> {
    let secured = match tls.map(|tls| tls.current()) {
        None if point.is_dialer() => Ok(MaybeTls::Plain(stream)),
        None => {
            let mut first = [0; MULTISTREAM.len()];
            let peeked = stream.peek(&mut first).await;
            let count = peeked.map_err(SecureError::Broken)?;
            return match count > 0 && MULTISTREAM.starts_with(&first[..count]) {
                true => Ok(MaybeTls::Plain(stream).compat()),
                false => Err(SecureError::NotLibp2p),
            };
        }
        Some(tls) if point.is_dialer() => tls.connect(stream).await,
        Some(tls) => tls.accept(stream).await,
    };
    secured.map(MaybeTls::compat).map_err(SecureError::Tls)
}
