//! A collector of traces (OTLP over HTTP), as far as tests need it. Tests of `e2e` include this file too.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<Resource>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<Scope>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

/// A span. Times are in nanoseconds since 1970.
#[derive(Clone, PartialEq, Message)]
pub struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub parent: Vec<u8>,
    #[prost(string, tag = "5")]
    pub name: String,
    #[prost(fixed64, tag = "7")]
    pub start: u64,
    #[prost(fixed64, tag = "8")]
    pub end: u64,
}

/// The spans in a request.
///
/// # Errors
/// It is not an OTLP request.
pub fn spans(request: &[u8]) -> Result<Vec<Span>, prost::DecodeError> {
    let resources = Request::decode(request)?.resources.into_iter();
    let scopes = resources.flat_map(|resource| resource.scopes);
    Ok(scopes.flat_map(|scope| scope.spans).collect())
}

/// Receives requests for as long as the test runs.
pub fn collect(listener: TcpListener) -> Receiver<Vec<u8>> {
    let (sender, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            thread::spawn(move || take(&stream, &sender));
        }
    });
    requests
}

/// Receives the requests of a connection, until one is not for traces.
fn take(mut stream: &TcpStream, sender: &Sender<Vec<u8>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (mut first, mut length, mut line) = (String::new(), 0, String::new());
        reader.read_line(&mut first).ok()?;
        if !first.starts_with("POST /v1/traces ") {
            return None;
        }
        while reader.read_line(&mut line).ok()? > 2 {
            if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().ok()?;
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        sender.send(body).ok()?;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).ok()?;
    }
}
