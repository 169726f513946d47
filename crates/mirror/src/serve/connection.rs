//! A connection from its first byte to its end.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tls::MaybeTls;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::admission::Accepted;
use super::port_tls::{self, Opened, PortTls};
use super::{refuse, turn_away};
use crate::body::Body;
use crate::body::client_socket::{ClientSocket, ClientStream};
use crate::mirror::ConnectionAddresses;
use crate::network::HasCertificate;
use crate::request::{RequestError, browser, host};
use crate::send;

/// The most bytes of a request's head, and the bytes of an answer that hyper buffers before it stops asking for more.
/// Enough for the tokens of registries, and no more than a small chunk, which a socket accepts whole.
const BUFFER: usize = 16 * 1024;
/// The limit for a client to send its request once the port drains.
const DRAIN_HEAD_LIMIT: Duration = Duration::from_secs(1);

/// Why a connection ended before its client ended it.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("no TLS: {0}")]
    Tls(io::Error),
}

/// Serves a connection to its end.
pub async fn connection<H, F>(
    mut accepted: Accepted,
    tls: Option<PortTls>,
    handler: H,
    drain: CancellationToken,
) where
    H: Fn(http::Request<hyper::body::Incoming>, ConnectionAddresses) -> F,
    F: Future<Output = Response<Body>>,
{
    let remote = accepted.addresses.remote;
    if !accepted.admit().await {
        turn_away(&accepted).await;
        return;
    }
    let (client, addresses) = (&accepted.client, accepted.addresses);
    let result = tokio::select! {
        result = converse(client, addresses, tls.as_ref(), handler, drain) => result,
        why = accepted.cut_off() => {
            tracing::debug!(why, %remote, "connection ended");
            return;
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, %remote, "connection ended");
    }
}

/// Opens a connection, and answers the requests on it.
async fn converse<H, F>(
    client: &Arc<ClientSocket>,
    addresses: ConnectionAddresses,
    tls: Option<&PortTls>,
    handler: H,
    drain: CancellationToken,
) -> Result<(), ConnectionError>
where
    H: Fn(http::Request<hyper::body::Incoming>, ConnectionAddresses) -> F,
    F: Future<Output = Response<Body>>,
{
    let Some((stream, secured)) = open(client, tls, &drain).await? else {
        return Ok(());
    };
    let has_certificate = secured.has_certificate();
    let drain = match has_certificate {
        true => drain.child_token(),
        false => drain,
    };
    let from = Client {
        socket: client,
        addresses,
        has_certificate,
    };
    let mut requests = std::pin::pin!(requests(stream, from, handler, drain.clone()));
    let result = tokio::select! {
        result = requests.as_mut() => result,
        () = secured.revoked() => {
            tracing::debug!(remote = %addresses.remote, "an authority was taken away; the connection ends");
            drain.cancel();
            requests.await
        }
    };
    if let Err(error) = &result
        && error.is_parse_version_h2()
        && !has_certificate
    {
        refuse::http2(&mut ClientStream(client.clone())).await;
    }
    Ok(result?)
}

/// Detects TLS on a connection, and does its handshake. `None`: the port drains, and the client has sent nothing.
async fn open(
    client: &Arc<ClientSocket>,
    tls: Option<&PortTls>,
    drain: &CancellationToken,
) -> Result<Option<Opened>, ConnectionError> {
    let Some(tls) = tls else {
        return Ok(Some(port_tls::plain(client)));
    };
    let drained = async {
        drain.cancelled().await;
        sleep(DRAIN_HEAD_LIMIT).await;
    };
    tokio::select! {
        // The memory of a handshake is not kept as long as the connection.
        opened = Box::pin(tls.open(client)) => opened.map(Some).map_err(ConnectionError::Tls),
        () = drained => Ok(None),
    }
}

/// The client of a connection.
struct Client<'a> {
    socket: &'a Arc<ClientSocket>,
    addresses: ConnectionAddresses,
    has_certificate: bool,
}

/// The checks of all requests.
fn check<B>(request: &http::Request<B>) -> Result<(), RequestError> {
    host::check(request.version(), request.headers())?;
    browser::check(request.headers())?;
    Ok(())
}

/// Answers the requests of a connection, as long as they are valid.
async fn requests<H, F>(
    stream: MaybeTls<ClientStream>,
    Client {
        socket,
        addresses,
        has_certificate,
    }: Client<'_>,
    handler: H,
    drain: CancellationToken,
) -> hyper::Result<()>
where
    H: Fn(http::Request<hyper::body::Incoming>, ConnectionAddresses) -> F,
    F: Future<Output = Response<Body>>,
{
    let requested = CancellationToken::new();
    let service = service_fn(|mut request: http::Request<hyper::body::Incoming>| {
        requested.cancel();
        socket.begin_request();
        if has_certificate {
            request.extensions_mut().insert(HasCertificate);
        }
        let checked = check(&request);
        // hyper reserves space for the answering future as long as the connection: in this way, for a pointer.
        let answer = checked.map(|()| Box::pin(handler(request, addresses)));
        let drain = &drain;
        async move {
            let mut response = match answer {
                Ok(answer) => answer.await,
                Err(error) => {
                    tracing::debug!(%error, remote = %addresses.remote, "refused a request");
                    send::refused(&error.into(), false)
                }
            };
            response.body_mut().send_to(socket.clone());
            if drain.is_cancelled() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let drains = drain.is_cancelled();
    // Otherwise `ClientSocket::cut_off` limits the time for a request.
    let head_limit = drains.then_some(DRAIN_HEAD_LIMIT);
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_limit)
            .keep_alive(!drains)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        result = connection.as_mut() => result,
        () = drain.cancelled(), if !drains => {
            let first_request = timeout(DRAIN_HEAD_LIMIT, requested.cancelled());
            tokio::select! {
                result = connection.as_mut() => result,
                // hyper closes a connection without a request at once, so this waits for the first one.
                _ = first_request => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    }
}
