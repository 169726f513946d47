//! Connections to peers. A peer is named by its id in the URI's host; its addresses are looked up in the book, so that
//! a connection is kept for reuse under the peer, not under one of its addresses. Where nodes have certificates, it is one
//! of TLS, whatever the URI says.

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
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tls::{MaybeTls, PeerTls, PeerTlsState};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::peers::Peers;

/// An address that does not take a connection within this time is as good as dead: on a cluster's network a handshake
/// takes well under a millisecond.
const CONNECT_LIMIT: Duration = Duration::from_millis(250);
/// The next address of a peer is tried this long after the one before (RFC 8305, 5, asks for 250 ms towards the
/// internet; a cluster's network is quicker).
const NEXT_ADDRESS: Duration = Duration::from_millis(50);

/// For the TLS handshake, which is a round trip and CPU on two nodes that may be busy.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(1);
/// Connections to one peer that are kept for reuse, and for how long: less than the 5 minutes after which middleboxes
/// and peers drop them.
const IDLE_CONNECTIONS: usize = 4;
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of an answer that a connection buffers. Bounds the memory of a relayed stream.
const READ_BUFFER: usize = 128 * 1024;

type PeerClient = Client<Connector, Empty<Bytes>>;
type PeerRequest = http::Request<Empty<Bytes>>;

/// All connections to peers.
#[derive(Debug)]
pub struct Connections {
    connector: Connector,
    /// With the count of revocations that it began after: connections that were made before another one are not used
    /// again.
    client: Mutex<(u64, PeerClient)>,
}

impl Connections {
    /// `tls`: `None`: peers are asked over plain HTTP.
    pub fn new(peers: Arc<Peers>, tls: Option<PeerTls>) -> Self {
        let connector = Connector { peers, tls };
        let client = (connector.revocations(), connector.client());
        Self {
            connector,
            client: Mutex::new(client),
        }
    }

    /// Sends a request to the peer that its URI names.
    ///
    /// A peer that takes an authority away ends the connections that are kept, perhaps while a request is on its way on one.
    /// So where there is TLS, a request without an answer is sent once more, on a connection of its own.
    pub async fn request(&self, request: PeerRequest) -> Result<Response<Incoming>, ClientError> {
        let client = self.client();
        if self.connector.tls.is_none() {
            return client.request(request).await;
        }
        match client.request(request.clone()).await {
            Err(error) if !error.is_connect() => self.connector.client().request(request).await,
            answered => answered,
        }
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

#[derive(Clone, Debug)]
struct Connector {
    peers: Arc<Peers>,
    tls: Option<PeerTls>,
}

impl Connector {
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
    type Response = TokioIo<MaybeTls<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let addresses = uri.host().and_then(|peer| self.peers.addresses(peer));
        let tls = self.tls.as_ref().map(PeerTls::current);
        Box::pin(async move {
            let addresses = addresses.unwrap_or_default();
            let stream = connect(&addresses).await?;
            stream.set_nodelay(true)?;
            let stream = match tls {
                Some(tls) => secure(stream, &tls).await?,
                None => MaybeTls::Plain(stream),
            };
            Ok(TokioIo::new(stream))
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

/// Connects to the first address that answers. The next one is tried when the one before has failed or is slow
/// (RFC 8305).
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
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_dead_address_does_not_hide_a_live_one() {
        let dead = TcpListener::bind("127.0.0.1:0")
            .await
            .and_then(|l| l.local_addr())
            .expect("a free port");
        let live = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = live.local_addr().expect("bound");
        let stream = connect(&[dead, address])
            .await
            .expect("the live one answers");
        assert_eq!(stream.peer_addr().expect("connected"), address);
        assert!(connect(&[dead]).await.is_err());
        assert!(connect(&[]).await.is_err());
    }
}
