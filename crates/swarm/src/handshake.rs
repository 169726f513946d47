//! How a connection is secured: with Noise, and, if the network has a key, only between nodes that have it. (If nodes
//! have certificates, there is TLS beneath; see `secure`.)
//!
//! The key's secret is the prologue of the Noise handshake (Noise specification, section 6): both ends must have hashed
//! the same one, or the handshake fails before either has sent anything else. The name of the protocol identifies the
//! key, so that the ends can agree on one that both have. Why: `docs/decisions/0016-network-key.md`.

use std::error::Error;
use std::io;
use std::pin::Pin;

use futures::future::{FutureExt as _, ready};
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::UpgradeInfo;
use libp2p::core::transport::TransportError;
use libp2p::core::upgrade::{
    InboundConnectionUpgrade, NegotiationError, OutboundConnectionUpgrade, ProtocolError,
};
use libp2p::identity::Keypair;
use libp2p::swarm::DialError;
use libp2p::{Multiaddr, PeerId, noise};
use network_key::{Keyring, NetworkKey};

use crate::addresses::Endpoint;

/// The protocol without a key, as in Spegel.
const OPEN: &str = "/noise";
/// The protocol with a key, whose id follows.
const KEYED: &str = "/peili/noise/1/";

/// The most addresses of a dial that are described.
const MAX_DESCRIBED: usize = 3;

/// The upgrade of a TCP connection.
#[derive(Clone)]
pub(crate) struct Handshake {
    noise: noise::Config,
    /// `None`: any node may be a peer.
    keys: Option<Keyring>,
}

impl Handshake {
    /// # Errors
    /// The key pair cannot sign for Noise.
    pub(crate) fn new(keypair: &Keypair, keys: Option<Keyring>) -> Result<Self, noise::Error> {
        let noise = noise::Config::new(keypair)?;
        Ok(Self { noise, keys })
    }

    /// Noise for a protocol. `None`: its key was removed after it was offered.
    fn noise(self, protocol: &str) -> Option<noise::Config> {
        let Some(keys) = self.keys else {
            return Some(self.noise);
        };
        let keys = keys.current();
        let key = keys.iter().find(|key| name(key) == protocol)?;
        let secret = key.handshake_secret().to_vec();
        Some(self.noise.with_prologue(secret))
    }
}

/// A broken connection, not a refusal: the next attempt offers the keys that are left.
fn key_removed() -> noise::Error {
    io::Error::other("the network key was removed during the handshake").into()
}

fn name(key: &NetworkKey) -> String {
    format!("{KEYED}{}", key.id())
}

impl UpgradeInfo for Handshake {
    type Info = String;
    type InfoIter = std::vec::IntoIter<String>;

    fn protocol_info(&self) -> Self::InfoIter {
        let names = match &self.keys {
            Some(keys) => keys.current().iter().map(name).collect(),
            None => vec![OPEN.to_owned()],
        };
        names.into_iter()
    }
}

type Secured<T> = Result<(PeerId, noise::Output<T>), noise::Error>;

impl<T> InboundConnectionUpgrade<T> for Handshake
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = noise::Error;
    type Future = Pin<Box<dyn Future<Output = Secured<T>> + Send>>;

    fn upgrade_inbound(self, socket: T, protocol: String) -> Self::Future {
        match self.noise(&protocol) {
            Some(noise) => noise.upgrade_inbound(socket, OPEN),
            None => ready(Err(key_removed())).boxed(),
        }
    }
}

impl<T> OutboundConnectionUpgrade<T> for Handshake
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = noise::Error;
    type Future = Pin<Box<dyn Future<Output = Secured<T>> + Send>>;

    fn upgrade_outbound(self, socket: T, protocol: String) -> Self::Future {
        match self.noise(&protocol) {
            Some(noise) => noise.upgrade_outbound(socket, OPEN),
            None => ready(Err(key_removed())).boxed(),
        }
    }
}

/// The error of a dial in words: each address with what happened there.
pub(crate) fn describe(error: &DialError) -> String {
    let DialError::Transport(addresses) = error else {
        return error.to_string();
    };
    let described = addresses
        .iter()
        .take(MAX_DESCRIBED)
        .map(|(address, error)| {
            let error = match error {
                TransportError::Other(error) => error.to_string(),
                TransportError::MultiaddrNotSupported(_) => "not an address of TCP".to_owned(),
            };
            match Endpoint::parse(address).map(|endpoint| endpoint.socket()) {
                Some(socket) => format!("{socket}: {error}"),
                None => format!("{address}: {error}"),
            }
        });
    described.collect::<Vec<_>>().join("; ")
}

/// The addresses of a dial that failed because the two ends could not agree on a handshake.
pub(crate) fn refused(error: &DialError) -> impl Iterator<Item = &Multiaddr> {
    let addresses = match error {
        DialError::Transport(addresses) => &addresses[..],
        _ => &[],
    };
    let refused = addresses.iter().filter(|(_, error)| is_refusal(error));
    refused.map(|(address, _)| address)
}

/// Whether one of the ends refused the other's handshake, as opposed to a broken connection.
pub(crate) fn is_refusal(error: &TransportError<io::Error>) -> bool {
    match error {
        TransportError::Other(error) => is_within(error),
        TransportError::MultiaddrNotSupported(_) => false,
    }
}

/// Checks the error inside a std::io error, which its `source` skips.
fn is_within(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| is_from_refusal(inner))
}

fn is_from_refusal(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref() {
        Some(NegotiationError::Failed) => return true,
        // The other end has gone on with a protocol that this node does not offer: its bytes are no message.
        Some(NegotiationError::ProtocolError(ProtocolError::IoError(error))) => {
            return error.kind() == io::ErrorKind::InvalidData;
        }
        Some(NegotiationError::ProtocolError(_)) => return true,
        None => {}
    }
    // A peer that refuses this node's certificate reports this after the TLS handshake.
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return is_within(error);
    }
    match error.downcast_ref::<noise::Error>() {
        // If only one protocol is proposed, the answer to the proposal is read during the handshake.
        Some(noise::Error::Io(error)) => is_within(error),
        Some(_) => true,
        None => error.is::<rustls::Error>() || error.source().is_some_and(is_from_refusal),
    }
}
