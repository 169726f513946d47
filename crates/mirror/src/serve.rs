//! Listening: connections of the registry port, and of any other HTTP port of ours.

mod http2;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::listen::BACKLOG;
use crate::mirror::{Ends, Mirror};
use crate::request::{RequestError, host, is_this_host};
use crate::send;

/// Connections from other hosts at once, and from this one.
const MOST_CONNECTIONS: usize = 4096;
const MOST_OWN_CONNECTIONS: usize = 512;
/// A client has this long to send the head of a request, and an idle connection to send the next.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// The head of a request, and what a connection may hold of an answer before the client has taken it, in bytes.
const BUFFER: usize = 256 * 1024;
/// The same once the port drains: who connects then has a request to send.
const DRAIN_HEAD_LIMIT: Duration = Duration::from_secs(1);
/// When no connection can be taken (no descriptors left), the next attempt is made this much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a port is closed, in two steps. Between them the port still accepts connections, for clients that do not know
/// yet that this process is about to end.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// From here on, each connection is closed after the request that is being answered, or after its first.
    pub drain: CancellationToken,
    /// From here on, no connection is accepted but those that the kernel has accepted already.
    pub close: CancellationToken,
}

impl From<CancellationToken> for Shutdown {
    /// Both steps at once.
    fn from(token: CancellationToken) -> Self {
        Self {
            drain: token.clone(),
            close: token,
        }
    }
}

/// Answers requests on `listener` until `shutdown`; then accepts no more and returns when those begun are done.
/// The caller bounds that by a deadline of its own.
pub async fn registry(listener: TcpListener, mirror: Arc<Mirror>, shutdown: impl Into<Shutdown>) {
    serve(
        listener,
        shutdown,
        move |request: http::Request<hyper::body::Incoming>, ends| {
            let mirror = mirror.clone();
            async move {
                // The body is dropped unread: hyper then ends the connection after the answer.
                let (head, _body) = request.into_parts();
                mirror.answer(&head, ends).await
            }
        },
    )
    .await;
}

/// The same for any handler.
pub async fn serve<H, F>(listener: TcpListener, shutdown: impl Into<Shutdown>, handler: H)
where
    H: Fn(http::Request<hyper::body::Incoming>, Ends) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let shutdown = shutdown.into();
    let connections = TaskTracker::new();
    let permits = ConnectionPermits {
        own: Arc::new(Semaphore::new(MOST_OWN_CONNECTIONS)),
        others: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
    };
    let answer = |accepted: Accepted| {
        let (handler, drain) = (handler.clone(), shutdown.drain.clone());
        connections.spawn(async move {
            connection(accepted.stream, accepted.ends, handler, drain).await;
            drop(accepted.permit);
        });
    };
    while let Some(accepted) = shutdown.close.run_until_cancelled(listener.accept()).await {
        match accepted.and_then(|(stream, remote)| permits.admit(stream, remote)) {
            Ok(Some(accepted)) => answer(accepted),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                let _ = shutdown
                    .close
                    .run_until_cancelled(sleep(ACCEPT_PAUSE))
                    .await;
            }
        }
    }
    // What the kernel has accepted for us must not end in a reset: the client holds a connection and has sent a request.
    match listener.into_std() {
        Ok(listener) => accepted_by_kernel(&listener, &permits)
            .into_iter()
            .for_each(answer),
        Err(error) => tracing::debug!(%error, "connections that waited to be accepted were lost"),
    }
    connections.close();
    connections.wait().await;
}

/// A connection, and the permit that it holds.
struct Accepted {
    stream: TcpStream,
    ends: Ends,
    permit: OwnedSemaphorePermit,
}

struct ConnectionPermits {
    own: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl ConnectionPermits {
    /// Admits a connection. This host's own clients have permits of their own, so that nobody can take theirs. Other
    /// clients without a permit are turned away rather than kept waiting.
    fn admit(&self, stream: TcpStream, remote: SocketAddr) -> io::Result<Option<Accepted>> {
        let ends = Ends {
            remote,
            local: stream.local_addr()?,
        };
        let permits = if is_this_host(ends.remote, ends.local) {
            &self.own
        } else {
            &self.others
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            tracing::debug!(%remote, "turned away: too many connections");
            return Ok(None);
        };
        stream.set_nodelay(true)?;
        Ok(Some(Accepted {
            stream,
            ends,
            permit,
        }))
    }
}

/// The connections that wait in the kernel's queue. It holds [`BACKLOG`] at the most, and whoever connects while it is
/// emptied is not waited for.
fn accepted_by_kernel(
    listener: &std::net::TcpListener,
    permits: &ConnectionPermits,
) -> Vec<Accepted> {
    let mut accepted = Vec::new();
    for _ in 0..BACKLOG {
        let Ok((stream, remote)) = listener.accept() else {
            break;
        };
        let admitted = stream
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(stream))
            .and_then(|stream| permits.admit(stream, remote));
        match admitted {
            Ok(admitted) => accepted.extend(admitted),
            Err(error) => tracing::debug!(%remote, %error, "a connection that waited was lost"),
        }
    }
    accepted
}

/// Serves a connection to its end.
async fn connection<H, F>(mut stream: TcpStream, ends: Ends, handler: H, drain: CancellationToken)
where
    H: Fn(http::Request<hyper::body::Incoming>, Ends) -> F,
    F: Future<Output = Response<Body>>,
{
    if let Err(error) = requests(&mut stream, ends, handler, drain).await {
        tracing::debug!(%error, remote = %ends.remote, "connection ended");
        if error.is_parse_version_h2() {
            http2::refuse(&mut stream).await;
        }
    }
}

/// Answers the requests of a connection, for as long as they are such.
async fn requests<H, F>(
    stream: &mut TcpStream,
    ends: Ends,
    handler: H,
    drain: CancellationToken,
) -> hyper::Result<()>
where
    H: Fn(http::Request<hyper::body::Incoming>, Ends) -> F,
    F: Future<Output = Response<Body>>,
{
    let requested = CancellationToken::new();
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        requested.cancel();
        let host = host::check(request.version(), request.headers());
        let (answer, drain) = (host.map(|()| handler(request, ends)), &drain);
        async move {
            let mut response = match answer {
                Ok(answer) => answer.await,
                Err(error) => {
                    tracing::debug!(%error, remote = %ends.remote, "refused a request");
                    send::refused(&RequestError::from(error).into())
                }
            };
            if drain.is_cancelled() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let drains = drain.is_cancelled();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(if drains { DRAIN_HEAD_LIMIT } else { HEAD_LIMIT })
        .keep_alive(!drains)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => result,
        () = drain.cancelled(), if !drains => {
            let first_request = timeout(DRAIN_HEAD_LIMIT, requested.cancelled());
            tokio::select! {
                result = connection.as_mut() => result,
                // hyper closes at once what has sent no request yet, so it waits for the first one.
                _ = first_request => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
