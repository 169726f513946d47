//! The stream of a connection to a peer, and its slot among the connections that are kept for reuse.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tls::MaybeTls;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

/// Whether an answer has come on a connection.
#[derive(Clone, Debug, Default)]
pub struct HasAnswered(Arc<AtomicBool>);

impl HasAnswered {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The stream of a connection. It is used once, unless it has a slot.
pub struct PeerStream {
    stream: TokioIo<MaybeTls<TcpStream>>,
    place: Option<OwnedSemaphorePermit>,
}

impl PeerStream {
    pub fn new(stream: MaybeTls<TcpStream>, place: Option<OwnedSemaphorePermit>) -> Self {
        let stream = TokioIo::new(stream);
        Self { stream, place }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut TokioIo<MaybeTls<TcpStream>>> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Connection for PeerStream {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(HasAnswered::default());
        if self.place.is_none() {
            connected.poison();
        }
        connected
    }
}

impl Read for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buffer)
    }
}

impl Write for PeerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, slices)
    }
}
