//! Listening: connections of the registry port, and of any other HTTP port of ours.

mod admission;
mod limits;
mod refuse;
mod spare;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::body::client_socket::{ClientSocket, ClientStream};
use crate::listen::BACKLOG;
use crate::mirror::{Ends, Mirror};
use crate::request::{RequestError, browser, host};
use crate::send;
use admission::{Accepted, Admission, IsOwn};
use spare::Spare;

pub use limits::{ConnectionLimits, PortLimits};

/// The head of a request has no more bytes, and while hyper holds this many of an answer, it asks for no more of it. The
/// least that carries the tokens of registries, and no more than a small chunk, which a socket takes whole.
const BUFFER: usize = 16 * 1024;
/// Once the port drains, a client has this long to send its request.
const DRAIN_HEAD_LIMIT: Duration = Duration::from_secs(1);
/// When no connection can be taken, the next attempt is made this much later.
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
    let limits = ConnectionLimits::default().registry;
    registry_within(limits, listener, mirror, shutdown).await;
}

/// The same with at most so many connections.
pub async fn registry_within(
    limits: PortLimits,
    listener: TcpListener,
    mirror: Arc<Mirror>,
    shutdown: impl Into<Shutdown>,
) {
    let access = mirror.clone();
    let is_own: IsOwn = Arc::new(move |head| access.is_own_by_head(head));
    serve_known(
        (limits, is_own),
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
pub async fn serve<H, F>(
    limits: PortLimits,
    listener: TcpListener,
    shutdown: impl Into<Shutdown>,
    handler: H,
) where
    H: Fn(http::Request<hyper::body::Incoming>, Ends) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    serve_known((limits, Arc::new(|_| false)), listener, shutdown, handler).await;
}

async fn serve_known<H, F>(
    (limits, is_own): (PortLimits, IsOwn),
    listener: TcpListener,
    shutdown: impl Into<Shutdown>,
    handler: H,
) where
    H: Fn(http::Request<hyper::body::Incoming>, Ends) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (admission, shutdown) = (Admission::new(limits, is_own), shutdown.into());
    let mut spare = Spare::new(&listener);
    let connections = TaskTracker::new();
    let answer = async |accepted: Accepted| {
        if accepted.is_one_too_many() {
            turn_away(&accepted).await;
            return;
        }
        let (handler, drain) = (handler.clone(), shutdown.drain.clone());
        connections.spawn(connection(accepted, handler, drain));
    };
    while let Some(accepted) = shutdown.close.run_until_cancelled(listener.accept()).await {
        match accepted.and_then(|(stream, remote)| admission.accept(stream, remote)) {
            Ok(accepted) => answer(accepted).await,
            Err(error) => {
                if let Some((stream, remote)) = spare.accept(&listener, &error) {
                    if let Ok(accepted) = admission.accept(stream, remote) {
                        accepted.end_idle();
                        turn_away(&accepted).await;
                    }
                    spare.keep(&listener);
                    continue;
                }
                spare.keep(&listener);
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
        Ok(listener) => {
            for accepted in accepted_by_kernel(&listener, &admission) {
                answer(accepted).await;
            }
        }
        Err(error) => tracing::debug!(%error, "connections that waited to be accepted were lost"),
    }
    connections.close();
    connections.wait().await;
}

/// The connections that wait in the kernel's queue. It holds [`BACKLOG`] at the most, and whoever connects while it is
/// emptied is not waited for.
fn accepted_by_kernel(listener: &std::net::TcpListener, admission: &Admission) -> Vec<Accepted> {
    let mut accepted = Vec::new();
    for _ in 0..BACKLOG {
        let Ok((stream, remote)) = listener.accept() else {
            break;
        };
        let taken = stream
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(stream))
            .and_then(|stream| admission.accept(stream, remote));
        match taken {
            Ok(taken) => accepted.push(taken),
            Err(error) => tracing::debug!(%remote, %error, "a connection that waited was lost"),
        }
    }
    accepted
}

/// Tells a client that there are too many, without waiting for it.
async fn turn_away(accepted: &Accepted) {
    tracing::debug!(remote = %accepted.ends.remote, "turned away: too many connections");
    refuse::too_many_connections(&mut ClientStream(accepted.client.clone())).await;
}

/// Serves a connection to its end.
async fn connection<H, F>(mut accepted: Accepted, handler: H, drain: CancellationToken)
where
    H: Fn(http::Request<hyper::body::Incoming>, Ends) -> F,
    F: Future<Output = Response<Body>>,
{
    let remote = accepted.ends.remote;
    if !accepted.admit().await {
        turn_away(&accepted).await;
        return;
    }
    let (client, ends) = (&accepted.client, accepted.ends);
    let result = tokio::select! {
        result = requests(client, ends, handler, drain) => result,
        why = accepted.cut_off() => {
            tracing::debug!(why, %remote, "connection ended");
            return;
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, %remote, "connection ended");
        if error.is_parse_version_h2() {
            refuse::http2(&mut ClientStream(client.clone())).await;
        }
    }
}

/// What is checked of a request whatever it asks for.
fn check<B>(request: &http::Request<B>) -> Result<(), RequestError> {
    host::check(request.version(), request.headers())?;
    browser::check(request.headers())?;
    Ok(())
}

/// Answers the requests of a connection, for as long as they are such.
async fn requests<H, F>(
    client: &Arc<ClientSocket>,
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
        client.begin_request();
        let checked = check(&request);
        // hyper keeps space for what answers a request as long as the connection lasts: for a pointer, this way.
        let answer = checked.map(|()| Box::pin(handler(request, ends)));
        let drain = &drain;
        async move {
            let mut response = match answer {
                Ok(answer) => answer.await,
                Err(error) => {
                    tracing::debug!(%error, remote = %ends.remote, "refused a request");
                    send::refused(&error.into(), false)
                }
            };
            response.body_mut().send_to(client.clone());
            if drain.is_cancelled() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let drains = drain.is_cancelled();
    // `ClientSocket::cut_off` limits the time for a request otherwise.
    let head_limit = drains.then_some(DRAIN_HEAD_LIMIT);
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_limit)
            .keep_alive(!drains)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(ClientStream(client.clone())), service)
    );
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
mod stall_tests;
#[cfg(test)]
mod tests;
