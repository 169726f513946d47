//! Listening: connections of the registry port, and of any other HTTP port of ours.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::mirror::{Ends, Mirror};
use crate::request::is_this_host;

/// Connections from other hosts at once, and from this one.
const MOST_CONNECTIONS: usize = 4096;
const MOST_OWN_CONNECTIONS: usize = 512;
/// A client has this long to send the head of a request, and an idle connection to send the next.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// The head of a request, and what a connection may hold of an answer before the client has taken it, in bytes.
const BUFFER: usize = 256 * 1024;
/// When no connection can be taken (no descriptors left), the next attempt is made this much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests on `listener` until `shutdown`; then takes no new ones and returns when those begun are done.
/// Whoever calls bounds that by a deadline of their own.
pub async fn registry(listener: TcpListener, mirror: Arc<Mirror>, shutdown: CancellationToken) {
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
pub async fn serve<H, F>(listener: TcpListener, shutdown: CancellationToken, handler: H)
where
    H: Fn(http::Request<hyper::body::Incoming>, Ends) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let connections = TaskTracker::new();
    let seats = Seats {
        own: Arc::new(Semaphore::new(MOST_OWN_CONNECTIONS)),
        others: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
    };
    while let Some(accepted) = shutdown
        .run_until_cancelled(accept(&listener, &seats))
        .await
    {
        let (stream, ends, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                let _ = shutdown
                    .run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE))
                    .await;
                continue;
            }
        };
        let (handler, shutdown) = (handler.clone(), shutdown.clone());
        connections.spawn(async move {
            connection(stream, ends, handler, shutdown).await;
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The next connection. This host's own clients have seats of their own, so that nobody can take theirs; a stranger
/// for whom there is none is turned away rather than kept waiting.
async fn accept(
    listener: &TcpListener,
    seats: &Seats,
) -> io::Result<(TcpStream, Ends, OwnedSemaphorePermit)> {
    loop {
        let (stream, remote) = listener.accept().await?;
        let ends = Ends {
            remote,
            local: stream.local_addr()?,
        };
        let seats = if is_this_host(ends.remote, ends.local) {
            &seats.own
        } else {
            &seats.others
        };
        if let Ok(seat) = seats.clone().try_acquire_owned() {
            stream.set_nodelay(true)?;
            return Ok((stream, ends, seat));
        }
        tracing::debug!(remote = %ends.remote, "turned away: too many connections");
    }
}

struct Seats {
    own: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

async fn connection<H, F>(stream: TcpStream, ends: Ends, handler: H, shutdown: CancellationToken)
where
    H: Fn(http::Request<hyper::body::Incoming>, Ends) -> F,
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let answer = handler(request, ends);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, remote = %ends.remote, "connection ended");
    }
}

#[cfg(test)]
mod tests;
