//! A small HTTP server on loopback that says what a test has it say, and keeps what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Ends with the server.
    _tasks: JoinSet<()>,
}

impl Server {
    /// `answer` says what is answered; `None` for a request that is never answered.
    pub(super) async fn start<F>(answer: F) -> Self
    where
        F: Fn(&Seen) -> Option<Response<Body>> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (seen, answer) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::new(answer));
        let log = seen.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (log, answer) = (log.clone(), answer.clone());
                connections.spawn(async move {
                    let service =
                        service_fn(move |request| respond(request, log.clone(), answer.clone()));
                    let http = hyper::server::conn::http1::Builder::new();
                    // A client that goes away is none of the server's faults.
                    let _ = http.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self {
            address,
            seen,
            _tasks: tasks,
        }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn respond<F>(
    request: Request<Incoming>,
    log: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<F>,
) -> Result<Response<Body>, Infallible>
where
    F: Fn(&Seen) -> Option<Response<Body>>,
{
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a whole request").to_bytes();
    let seen = Seen {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    log.lock().push(seen.clone());
    match answer(&seen) {
        Some(response) => Ok(response),
        None => std::future::pending().await,
    }
}

pub(super) fn response(
    status: u16,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response<Body> {
    with_body(status, headers, Full::new(body.into()).boxed_unsync())
}

/// An answer whose body sends these pieces and then nothing more, without an end.
pub(super) fn endless(headers: &[(&str, &str)], piece: Bytes, pieces: usize) -> Response<Body> {
    let body = stream::unfold(pieces, move |left| {
        let piece = piece.clone();
        async move {
            if left == 0 {
                std::future::pending::<()>().await;
            }
            Some((Ok(Frame::data(piece)), left - 1))
        }
    });
    with_body(200, headers, StreamBody::new(body).boxed_unsync())
}

/// An answer that announces more than it sends.
pub(super) fn cut(length: usize, body: Bytes) -> Response<Body> {
    let body = stream::iter([Ok(Frame::data(body))]);
    let length = length.to_string();
    let headers = [("content-length", length.as_str())];
    with_body(200, &headers, StreamBody::new(body).boxed_unsync())
}

fn with_body(status: u16, headers: &[(&str, &str)], body: Body) -> Response<Body> {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body).expect("an answer")
}
