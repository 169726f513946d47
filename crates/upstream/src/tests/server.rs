//! A small HTTP server on loopback that answers as a test says, and records its requests.

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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    /// The path and query.
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
    /// The scheme, `http` or `https`.
    scheme: &'static str,
    /// The PEM certificate of a server with TLS.
    pub(super) certificate: Option<String>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// The tasks end with the server.
    _tasks: JoinSet<()>,
}

impl Server {
    /// `answer` makes the answers; with `None` a request is never answered.
    pub(super) async fn start<F>(answer: F) -> Self
    where
        F: Fn(&Seen) -> Option<Response<Body>> + Send + Sync + 'static,
    {
        Self::start_with(None, answer).await
    }

    /// A server with a certificate of its own for 127.0.0.1.
    pub(super) async fn start_tls<F>(answer: F) -> Self
    where
        F: Fn(&Seen) -> Option<Response<Body>> + Send + Sync + 'static,
    {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
        Self::start_with(Some(&made), answer).await
    }

    async fn start_with<F>(tls: Option<&rcgen::CertifiedKey<rcgen::KeyPair>>, answer: F) -> Self
    where
        F: Fn(&Seen) -> Option<Response<Body>> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (seen, answer) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::new(answer));
        let log = seen.clone();
        let acceptor = tls.map(acceptor);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (log, answer, acceptor) = (log.clone(), answer.clone(), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        Some(acceptor) => {
                            if let Ok(socket) = acceptor.accept(socket).await {
                                serve(socket, log, answer).await;
                            }
                        }
                        None => serve(socket, log, answer).await,
                    }
                });
            }
        });
        Self {
            address,
            scheme: if tls.is_some() { "https" } else { "http" },
            certificate: tls.map(|made| made.cert.pem()),
            seen,
            _tasks: tasks,
        }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }
}

pub(super) fn acceptor(made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> TlsAcceptor {
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(tls::provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .expect("a key that fits");
    TlsAcceptor::from(Arc::new(config))
}

async fn serve<S, F>(socket: S, log: Arc<Mutex<Vec<Seen>>>, answer: Arc<F>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Fn(&Seen) -> Option<Response<Body>> + Send + Sync + 'static,
{
    let service = service_fn(move |request| respond(request, log.clone(), answer.clone()));
    let http = hyper::server::conn::http1::Builder::new();
    // A client that disconnects is not a fault of the server.
    let _ = http.serve_connection(TokioIo::new(socket), service).await;
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

/// An answer that announces more bytes than it sends.
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

/// An answer in chunks, without a length.
pub(super) fn chunked(pieces: &[&'static [u8]]) -> Response<Body> {
    let pieces: Vec<_> = pieces
        .iter()
        .map(|piece| Bytes::from_static(piece))
        .collect();
    let frames = pieces.into_iter().map(|piece| Ok(Frame::data(piece)));
    with_body(
        200,
        &[],
        StreamBody::new(stream::iter(frames)).boxed_unsync(),
    )
}
