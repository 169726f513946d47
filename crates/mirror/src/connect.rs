//! Connections to peers. The host of a URI is a peer's id, whose addresses are looked up in the book, so that a
//! connection is kept for reuse under the peer and not under one of its addresses. If nodes have certificates, TLS is
//! used, whatever the URI says.
//!
//! Any node can name peers that do not exist, each with connections of its own. So a connection is kept only if its
//! peer has sent a good body, and few are kept.

mod peer_stream;

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{Response, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tls::{MaybeTls, PeerTls, PeerTlsState};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::PeerId;
use crate::body::client_socket::WAIT_LIMIT;
use crate::peers::Peers;
use peer_stream::{HasAnswered, PeerStream};

/// The limit for a connection to one address. On a cluster's network a handshake takes well under a millisecond.
const CONNECT_LIMIT: Duration = Duration::from_millis(250);
/// The delay before the next address of a peer is tried (RFC 8305, section 5, recommends 250 ms for the internet; a
/// cluster's network is faster).
const NEXT_ADDRESS: Duration = Duration::from_millis(50);

/// The limit of the TLS handshake, which is a round trip and CPU on two nodes that may be busy.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(1);
/// The most idle connections to one peer that are kept for reuse, and for how long: less than the time after which
/// peers and middleboxes drop them.
const IDLE_CONNECTIONS: usize = 4;
const IDLE_LIMIT: Duration = Duration::from_secs(WAIT_LIMIT.as_secs() / 2);
/// The most connections kept for reuse, to all peers together. If all are in use, a further connection is used once.
const MAX_KEPT: usize = 128;
/// The bytes of an answer that a connection buffers. It bounds the memory of a relayed stream.
const READ_BUFFER: usize = 128 * 1024;

type PeerClient = Client<Connector, Empty<Bytes>>;
type PeerRequest = http::Request<Empty<Bytes>>;

/// All connections to peers.
#[derive(Debug)]
pub struct Connections {
    connector: Connector,
    /// The client, and the number of revocations before it was created: connections made before a later revocation are
    /// not reused.
    client: Mutex<(u64, PeerClient)>,
}

impl Connections {
    /// `tls`: `None`: peers are asked over plain HTTP.
    pub fn new(peers: Arc<Peers>, tls: Option<PeerTls>) -> Self {
        let kept = Arc::new(Semaphore::new(MAX_KEPT));
        let connector = Connector { peers, tls, kept };
        let client = (connector.revocations(), connector.client());
        Self {
            connector,
            client: Mutex::new(client),
        }
    }

    /// Sends a GET or HEAD request to the peer named in its URI.
    ///
    /// A peer may close a kept connection while a request is being sent on it. So if a reused connection breaks before
    /// the answer, the request is repeated once, on a new connection (RFC 9112, section 9.3.1).
    pub async fn request(&self, request: PeerRequest) -> Result<Response<Incoming>, ClientError> {
        let answered = match self.client().request(request.clone()).await {
            Err(error) if is_reused_and_broken(&error) => {
                self.connector.client().request(request).await
            }
            answered => answered,
        }?;
        if let Some(has_answered) = answered.extensions().get::<HasAnswered>() {
            has_answered.set();
        }
        Ok(answered)
    }

    fn client(&self) -> PeerClient {
        let revocations = self.connector.revocations();
        let mut client = self.client.lock();
        if client.0 != revocations {
            *client = (revocations, self.connector.client());
        }
        client.1.clone()
    }
}

/// Whether a connection on which answers have come broke before the next one.
fn is_reused_and_broken(error: &ClientError) -> bool {
    let mut extras = http::Extensions::new();
    if let Some(connected) = error.connect_info() {
        connected.get_extras(&mut extras);
    }
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    extras.get::<HasAnswered>().is_some_and(HasAnswered::get)
        && cause.is_some_and(|cause: &hyper::Error| !cause.is_parse())
}

#[derive(Clone, Debug)]
struct Connector {
    peers: Arc<Peers>,
    tls: Option<PeerTls>,
    kept: Arc<Semaphore>,
}

impl Connector {
    /// A slot among the kept connections, for one to this peer.
    fn place(&self, peer: &str) -> Option<OwnedSemaphorePermit> {
        let has_delivered = self.peers.has_delivered(&PeerId::new(peer));
        has_delivered.then(|| self.kept.clone().try_acquire_owned().ok())?
    }

    fn client(&self) -> PeerClient {
        Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .set_host(false)
            .http1_max_buf_size(READ_BUFFER)
            .build(self.clone())
    }

    fn revocations(&self) -> u64 {
        let current = self.tls.as_ref().map(PeerTls::current);
        current.map_or(0, |current| current.revocations)
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = PeerStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let addresses = uri.host().and_then(|peer| self.peers.addresses(peer));
        let place = uri.host().and_then(|peer| self.place(peer));
        let tls = self.tls.as_ref().map(PeerTls::current);
        Box::pin(async move {
            let addresses = addresses.unwrap_or_default();
            let stream = connect(&addresses).await?;
            stream.set_nodelay(true)?;
            let stream = match tls {
                Some(tls) => secure(stream, &tls).await?,
                None => MaybeTls::Plain(stream),
            };
            Ok(PeerStream::new(stream, place))
        })
    }
}

async fn secure(stream: TcpStream, tls: &PeerTlsState) -> io::Result<MaybeTls<TcpStream>> {
    match timeout(HANDSHAKE_LIMIT, tls.connect(stream)).await {
        Ok(secured) => secured.map_err(|error| {
            let text = format!("no TLS with the peer (--peer-tls-dir): {error}");
            io::Error::new(error.kind(), text)
        }),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

/// Connects to the first address that answers. The next one is tried when the previous one has failed or is slow (RFC
/// 8305).
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut left = addresses.iter();
    let mut running = FuturesUnordered::new();
    let mut last = io::Error::other("the peer has no address");
    loop {
        match left.next() {
            Some(address) => running.push(timeout(CONNECT_LIMIT, TcpStream::connect(address))),
            None if running.is_empty() => return Err(last),
            None => {}
        }
        let slow = async {
            match left.len() {
                0 => std::future::pending().await,
                _ => sleep(NEXT_ADDRESS).await,
            }
        };
        tokio::select! {
            Some(attempt) = running.next() => match attempt.map_err(io::Error::from).flatten() {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = slow => {}
        }
    }
}

#[cfg(test)]
mod tests;
