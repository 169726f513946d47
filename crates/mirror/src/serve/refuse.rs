//! Answers outside the request pipeline, each the last on its connection.

use std::io;
use std::time::Duration;

use http::StatusCode;
use oci::{ErrorBody, ErrorCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::body::client_socket::ClientStream;

/// The limit for the client to accept the answer and to close its side.
const LIMIT: Duration = Duration::from_secs(1);
/// The most bytes that are read and dropped meanwhile. Closing with unread bytes would reset the connection, and the
/// answer might be lost.
const MAX_DISCARDED: u64 = 64 * 1024;

/// Tells a client that has sent the preface of HTTP/2 (RFC 9113, section 3.4) without negotiation that the port uses
/// HTTP/1.1.
pub async fn http2(stream: &mut ClientStream) {
    let text = "this port speaks HTTP/1.1; have the client ask by HTTP/1.1";
    let body = ErrorBody::new(ErrorCode::Unsupported, text);
    let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
    tell(stream, status, "", &body, LIMIT).await;
}

/// Tells a client that there are too many connections, without waiting for it, as it is not counted either.
pub async fn too_many_connections(stream: &mut ClientStream) {
    let text = "this mirror serves as many clients as it can; ask again later, or elsewhere";
    let body = ErrorBody::new(ErrorCode::TooManyRequests, text);
    let status = StatusCode::SERVICE_UNAVAILABLE;
    tell(stream, status, "retry-after: 5\r\n", &body, Duration::ZERO).await;
}

async fn tell(
    stream: &mut ClientStream,
    status: StatusCode,
    header: &str,
    body: &ErrorBody<'_>,
    limit: Duration,
) {
    let body = body.to_json();
    let head = format!(
        "HTTP/1.1 {status}\r\n{header}content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let answer = [head.as_bytes(), &body].concat();
    if !matches!(timeout(limit, send(stream, &answer)).await, Ok(Ok(()))) {
        tracing::debug!(%status, "the client disconnected before the refusal was sent");
    }
}

async fn send(stream: &mut ClientStream, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(MAX_DISCARDED);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}
