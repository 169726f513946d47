//! Listening: connections of the registry port, and of any other HTTP port.

mod admission;
mod connection;
mod limits;
mod port_tls;
mod refuse;
mod spare;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::body::client_socket::ClientStream;
use crate::listen::BACKLOG;
use crate::mirror::{ConnectionAddresses, Mirror};
use admission::{Accepted, Admission, IsOwn};
use connection::connection;
use spare::Spare;

pub use admission::counted_address;
pub use limits::{ConnectionLimits, PortLimits};
pub(crate) use port_tls::PortTls;

/// The pause after a failed attempt to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The two steps of closing a port. Between them the port still accepts connections, for clients that do not know yet
/// that this process is about to end.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Once cancelled, each connection is closed after its present or its first request.
    pub drain: CancellationToken,
    /// Once cancelled, only connections that the kernel has already accepted are served.
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

/// Answers requests on `listener` until `shutdown`; then accepts no more, and returns when the running ones are done.
/// The caller limits that by a deadline.
pub async fn registry(listener: TcpListener, mirror: Arc<Mirror>, shutdown: impl Into<Shutdown>) {
    let limits = ConnectionLimits::default().registry;
    registry_within(limits, listener, mirror, shutdown).await;
}

/// The same with a limit of connections.
pub async fn registry_within(
    limits: PortLimits,
    listener: TcpListener,
    mirror: Arc<Mirror>,
    shutdown: impl Into<Shutdown>,
) {
    let access = mirror.clone();
    let port = Port {
        limits,
        is_own: Arc::new(move |head| access.is_own_by_head(head)),
        tls: mirror.port_tls(),
    };
    serve_known(
        port,
        listener,
        shutdown,
        move |request: http::Request<hyper::body::Incoming>, addresses| {
            let mirror = mirror.clone();
            async move {
                // The body is dropped unread: hyper then ends the connection after the answer.
                let (head, _body) = request.into_parts();
                mirror.answer(&head, addresses).await
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
    H: Fn(http::Request<hyper::body::Incoming>, ConnectionAddresses) -> F
        + Clone
        + Send
        + Sync
        + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let port = Port {
        limits,
        is_own: Arc::new(|_| false),
        tls: None,
    };
    serve_known(port, listener, shutdown, handler).await;
}

/// The service of a port, and its clients.
struct Port {
    limits: PortLimits,
    is_own: IsOwn,
    /// `None`: there is no TLS, and no first byte to wait for.
    tls: Option<PortTls>,
}

async fn serve_known<H, F>(
    Port {
        limits,
        is_own,
        tls,
    }: Port,
    listener: TcpListener,
    shutdown: impl Into<Shutdown>,
    handler: H,
) where
    H: Fn(http::Request<hyper::body::Incoming>, ConnectionAddresses) -> F
        + Clone
        + Send
        + Sync
        + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (admission, shutdown) = (Admission::new(limits, is_own), shutdown.into());
    let mut spare = Spare::new(&listener);
    let connections = TaskTracker::new();
    let answer = async |accepted: Accepted| {
        if accepted.is_over_limit() {
            turn_away(&accepted).await;
            return;
        }
        let (handler, drain) = (handler.clone(), shutdown.drain.clone());
        connections.spawn(connection(accepted, tls.clone(), handler, drain));
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
    // Connections that the kernel has accepted must not end in a reset: the client is connected and has sent a request.
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

/// The connections in the kernel's queue. It holds at most [`BACKLOG`]; clients that connect while it is emptied are
/// not waited for.
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

/// Tells a client that there are too many connections, without waiting for it.
async fn turn_away(accepted: &Accepted) {
    tracing::debug!(remote = %accepted.addresses.remote, "turned away: too many connections");
    refuse::too_many_connections(&mut ClientStream(accepted.client.clone())).await;
}

#[cfg(test)]
mod stall_tests;
#[cfg(test)]
mod tests;
