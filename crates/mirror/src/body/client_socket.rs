//! The socket of a client, shared by hyper, which reads and writes, and by the body being sent, which reads no more
//! data while the socket does not accept any.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// The most unsent bytes in the kernel for a client: at first, and once it gets large chunks. Sent bytes without an
/// acknowledgement do not count, so this slows down no link (`TCP_NOTSENT_LOWAT`, tcp(7)). Without it, a client that
/// does not read costs megabytes there.
const UNSENT: u32 = 128 * 1024;
const MAX_UNSENT: u32 = 1024 * 1024;
/// A client that has not accepted bytes or sent a request for this long may lose its connection to a new one.
pub const IDLE_AFTER: Duration = Duration::from_secs(2);
/// The most bytes that are read and dropped when a connection is closed.
const MAX_DISCARDED: usize = 64 * 1024;

/// The limit for a client to accept bytes, or to send a whole request. Whenever it accepts bytes, it accepts at least
/// half of [`UNSENT`], so a minute is enough for any usable link.
pub const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// The same for this node's own client. containerd may pause while its disk syncs. The kubelet gives up a pull without
/// progress for 5 minutes, and after twice that time no client waits for the bytes.
pub const OWN_WAIT_LIMIT: Duration = Duration::from_secs(600);

/// The socket of a client.
#[derive(Debug)]
pub struct ClientSocket {
    stream: TcpStream,
    from_this_host: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// A request is being answered.
    is_answering: bool,
    /// The latest answer is for this node's own client.
    for_own: bool,
    /// It was sent a large chunk.
    takes_many: bool,
    /// It accepts bytes, and none were written since that was known.
    takes_bytes: bool,
    /// Since when the mirror has waited for the client.
    waiting_since: Option<Instant>,
}

impl ClientSocket {
    pub fn new(stream: TcpStream, from_this_host: bool) -> Self {
        limit_unsent(&stream, UNSENT);
        Self {
            stream,
            from_this_host,
            state: Mutex::new(State {
                is_answering: false,
                for_own: false,
                takes_many: false,
                takes_bytes: false,
                waiting_since: Some(Instant::now()),
            }),
        }
    }

    /// Records that a request has come.
    pub fn begin_request(&self) {
        let mut state = self.state.lock();
        (state.is_answering, state.waiting_since) = (true, None);
    }

    /// Returns the first unread bytes from the client without consuming them.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.peek(buffer).await
    }

    /// How long the mirror has waited for the client by now.
    pub fn waited(&self) -> Duration {
        let since = self.state.lock().waiting_since;
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Waits until the connection must end, and returns the reason. `wanted` ends one of the idle connections, so that
    /// another client can connect: the one that has been idle longest, and a connection of this node's own client only
    /// for clients on this host.
    pub async fn cut_off(&self, wanted: &Notify) -> &'static str {
        loop {
            let (since, for_own) = {
                let state = self.state.lock();
                (state.waiting_since, state.for_own)
            };
            let is_own = self.from_this_host || for_own;
            let limit = if is_own { OWN_WAIT_LIMIT } else { WAIT_LIMIT };
            let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
            if waited >= limit {
                return "the client took no bytes, or sent no request, for too long";
            }
            let is_idle = waited >= IDLE_AFTER;
            tokio::select! {
                () = sleep(if is_idle { limit - waited } else { IDLE_AFTER }) => {}
                () = wanted.notified(), if is_idle && (self.from_this_host || !for_own) => {
                    if self.state.lock().waiting_since == since {
                        return "the client was idle, and another one needed its connection";
                    }
                    wanted.notify_one();
                }
            }
        }
    }

    /// Ready once the socket accepts [`SMALL_CHUNK`](super::send_memory::SMALL_CHUNK) bytes or is broken.
    pub fn poll_takes_bytes(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.state.lock().takes_bytes {
            return Poll::Ready(());
        }
        loop {
            let ready = ready!(self.poll_write_ready(cx));
            // Only a write shows the runtime that the kernel's buffer is full.
            let takes = || match is_full(&self.stream) {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(()),
            };
            if ready.is_err() || self.stream.try_io(Interest::WRITABLE, takes).is_ok() {
                let mut state = self.state.lock();
                (state.waiting_since, state.takes_bytes) = (None, true);
                return Poll::Ready(());
            }
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ready = self.stream.poll_write_ready(cx);
        if ready.is_pending() {
            let mut state = self.state.lock();
            state.waiting_since.get_or_insert_with(Instant::now);
        }
        ready
    }

    /// Closes the connection with FIN, after the bytes in the kernel's buffer. Closing it with unread bytes would reset
    /// it, and bytes that the client has not read yet might be lost.
    pub fn close(&self) {
        if SockRef::from(&self.stream)
            .shutdown(Shutdown::Write)
            .is_err()
        {
            // The client has closed it.
            return;
        }
        let mut dropped = [0; 4096];
        for _ in 0..MAX_DISCARDED / dropped.len() {
            if !matches!(self.stream.try_read(&mut dropped), Ok(1..)) {
                break;
            }
        }
    }
}

/// Limits the unsent bytes, if the kernel supports that.
fn limit_unsent(stream: &TcpStream, bytes: u32) {
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(bytes) {
        tracing::trace!(%error, "the kernel limits no send queue");
    }
}

/// Whether the kernel's send buffer is full. After this call, the runtime is notified once it is not.
fn is_full(stream: &TcpStream) -> bool {
    let mut socket = [PollFd::new(stream, PollFlags::OUT)];
    matches!(poll(&mut socket, Some(&Timespec::default())), Ok(0))
}

/// An answer that is being sent, until it is dropped.
#[derive(Debug)]
pub struct Sending(Arc<ClientSocket>);

impl Sending {
    pub fn begin(socket: Arc<ClientSocket>, for_own: bool) -> Self {
        socket.state.lock().for_own = for_own;
        Self(socket)
    }

    pub fn socket(&self) -> &ClientSocket {
        &self.0
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.is_answering = false;
        state.waiting_since.get_or_insert_with(Instant::now);
    }
}

/// The stream that hyper reads and writes.
#[derive(Debug)]
pub struct ClientStream(pub Arc<ClientSocket>);

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.stream.poll_read_ready(cx))?;
            match self.0.stream.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(drop)),
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.state.lock().takes_bytes = false;
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    let mut state = self.0.state.lock();
                    let bytes = *result.as_ref().unwrap_or(&0);
                    if bytes > UNSENT as usize / 2 && !state.takes_many {
                        state.takes_many = true;
                        limit_unsent(&self.0.stream, MAX_UNSENT);
                    }
                    state.waiting_since = (!state.is_answering).then(Instant::now);
                    return Poll::Ready(result);
                }
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&self.0.stream).shutdown(Shutdown::Write))
    }
}
