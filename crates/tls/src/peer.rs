//! Mutual TLS between nodes, with certificates that are replaced while the process runs.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{MaybeTls, PeerCertificates};

/// The certificates in force. Clones share them: a replacement is visible to all.
#[derive(Clone)]
pub struct PeerTls(Arc<watch::Sender<PeerTlsState>>);

/// The certificates that are in force at one moment.
#[derive(Clone, Debug, Default)]
pub struct PeerTlsState {
    /// `None`: there is none yet, so no connection succeeds.
    pub certificates: Option<Arc<PeerCertificates>>,
    /// The number of times that an authority has been removed so far. Connections from before must not be used any
    /// more.
    pub revocations: u64,
}

impl PeerTls {
    pub fn new(certificates: Option<PeerCertificates>) -> Self {
        Self(Arc::new(watch::Sender::new(PeerTlsState {
            certificates: certificates.map(Arc::new),
            revocations: 0,
        })))
    }

    pub fn current(&self) -> PeerTlsState {
        self.0.borrow().clone()
    }

    /// Makes new connections use these certificates.
    pub fn replace(&self, certificates: PeerCertificates) {
        self.0.send_modify(|state| {
            let old = state.certificates.take();
            if old.is_some_and(|old| !certificates.trust_all_of(&old)) {
                state.revocations += 1;
            }
            state.certificates = Some(Arc::new(certificates));
        });
    }

    /// Notifies of each replacement from now on.
    pub fn changes(&self) -> watch::Receiver<PeerTlsState> {
        self.0.subscribe()
    }

    /// Waits until an authority has been removed since this state. Otherwise never ends.
    pub async fn revoked(&self, since: &PeerTlsState) {
        let revocations = since.revocations;
        let mut changes = self.changes();
        let waited = changes.wait_for(|now| now.revocations != revocations);
        if waited.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerTls").field(&self.current()).finish()
    }
}

impl PeerTlsState {
    /// Secures a connection to a peer.
    ///
    /// # Errors
    /// The peer has no certificate of the authorities, or the connection breaks. If the peer refuses this node's
    /// certificate, the first read fails.
    pub async fn connect<S>(&self, stream: S) -> io::Result<MaybeTls<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(self.certificates()?.client.clone());
        // No name is verified, and none is sent, as it is an address (RFC 6066, section 3).
        let name = ServerName::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
        let stream = connector.connect(name, stream).await?;
        Ok(MaybeTls::Tls(Box::new(stream.into())))
    }

    /// Secures a connection of a peer.
    ///
    /// # Errors
    /// The client has no certificate of the authorities, does not support TLS 1.3, or the connection breaks.
    pub async fn accept<S>(&self, stream: S) -> io::Result<MaybeTls<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(self.certificates()?.server.clone());
        let stream = acceptor.accept(stream).await?;
        Ok(MaybeTls::Tls(Box::new(stream.into())))
    }

    fn certificates(&self) -> io::Result<&PeerCertificates> {
        let missing = || io::Error::other("this node has no certificate in --peer-tls-dir yet");
        self.certificates.as_deref().ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests;
