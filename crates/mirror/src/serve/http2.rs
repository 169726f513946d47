//! HTTP/2 with prior knowledge, refused with words: the client has begun to speak it without asking, and the port speaks
//! HTTP/1.1.

use std::io;
use std::time::Duration;

use http::StatusCode;
use oci::{ErrorBody, ErrorCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the client has to take the answer and to end its side.
const LIMIT: Duration = Duration::from_secs(1);
/// Bytes that are read and dropped meanwhile. Closing with unread bytes would reset the connection, and the answer might
/// be lost with it.
const MOST_DROPPED: u64 = 64 * 1024;

/// Tells a client that has sent the preface of HTTP/2 (RFC 9113, 3.4) what to do, and closes its connection.
pub async fn refuse(stream: &mut TcpStream) {
    if !matches!(timeout(LIMIT, tell(stream)).await, Ok(Ok(()))) {
        tracing::debug!("a client that speaks HTTP/2 did not stay for the answer");
    }
}

async fn tell(stream: &mut TcpStream) -> io::Result<()> {
    let text = "this port speaks HTTP/1.1; have the client ask by HTTP/1.1";
    let body = ErrorBody::new(ErrorCode::Unsupported, text).to_json();
    let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(MOST_DROPPED);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}
