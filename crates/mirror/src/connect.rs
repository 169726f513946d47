//! Connections to peers. A peer is named by its id in the URI's host; its addresses are looked up in the book, so that
//! a connection is kept for reuse under the peer, not under one of its addresses.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::peers::Peers;

/// An address that does not take a connection within this time is as good as dead: on a cluster's network a handshake
/// takes well under a millisecond.
const CONNECT_LIMIT: Duration = Duration::from_millis(250);
/// The next address of a peer is tried this long after the one before (RFC 8305, 5, asks for 250 ms towards the
/// internet; a cluster's network is quicker).
const NEXT_ADDRESS: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct Connector {
    peers: Arc<Peers>,
}

impl Connector {
    pub fn new(peers: Arc<Peers>) -> Self {
        Self { peers }
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let addresses = uri.host().and_then(|peer| self.peers.addresses(peer));
        Box::pin(async move {
            let addresses = addresses.unwrap_or_default();
            let stream = connect(&addresses).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
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
