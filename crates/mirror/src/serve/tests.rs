//! Answers to good and bad requests, over a real socket.

mod handshakes;
mod refusals;

use bytes::Bytes;
use oci::{Digest, Origin};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use std::net::SocketAddr;

use super::*;
use crate::fetch::Limits;
use crate::memory::{MemoryCluster, MemoryStore};
use crate::mirror::{Adapters, Options};
use crate::{Candidate, PeerId};

struct TestApp {
    address: SocketAddr,
    blob: Digest,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

const BLOB: &[u8] = b"0123456789";

async fn app() -> TestApp {
    app_with(crate::Access::default()).await
}

async fn app_with(access: crate::Access) -> TestApp {
    let store = Arc::new(MemoryStore::default());
    let origin: Origin = Origin {
        registry: "quay.io".parse().expect("good"),
        repository: "a/b".parse().expect("good"),
    };
    let blob = store.put(&origin, Bytes::from_static(BLOB));
    let here = Candidate {
        peer: PeerId::new("here"),
        addresses: Arc::new([]),
    };
    let parts = Adapters {
        store,
        router: Arc::new(MemoryCluster::default().router(here)),
        pull_through: None,
        checks: None,
        flights: None,
    };
    let options = Options {
        access: crate::Access {
            resolve_tags: true,
            ..access
        },
        reader: crate::Reader::default(),
        limits: Limits {
            resolve_timeout: Duration::from_secs(1),
            attempts: 3,
        },
    };
    let mirror = Arc::new(Mirror::new(parts, options, &mut Registry::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(registry(listener, mirror, shutdown.clone()));
    TestApp {
        address,
        blob,
        shutdown,
        server,
    }
}

impl TestApp {
    /// Sends these bytes and reads until the server closes.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("listening");
        // A server may answer and close before it has read a megabyte of invalid data.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, path: &str, headers: &str) -> String {
        self.raw(
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")
                .as_bytes(),
        )
        .await
    }
}

#[tokio::test]
async fn local_content_is_served_whole_and_in_ranges() {
    let app = app().await;
    let path = format!("/v2/a/b/blobs/{}?ns=quay.io", app.blob);
    let whole = app.get(&path, "").await;
    assert!(
        whole.starts_with("HTTP/1.1 200 OK\r\n") && whole.ends_with("0123456789"),
        "{whole}"
    );
    for header in [
        "content-length: 10",
        "accept-ranges: bytes",
        "content-type: application/octet-stream",
        "oci-namespace: quay.io",
        &format!("docker-content-digest: {}", app.blob),
        &format!("etag: \"{}\"", app.blob),
    ] {
        assert!(
            whole.contains(&format!("\r\n{header}\r\n")),
            "{header} is not in {whole}"
        );
    }
    let part = app.get(&path, "range: bytes=-3\r\n").await;
    assert!(
        part.starts_with("HTTP/1.1 206") && part.contains("content-range: bytes 7-9/10"),
        "{part}"
    );
    assert!(part.ends_with("\r\n\r\n789"), "{part}");
    let outside = app.get(&path, "range: bytes=10-\r\n").await;
    assert!(
        outside.starts_with("HTTP/1.1 416") && outside.contains("content-range: bytes */10"),
        "{outside}"
    );
    let reversed = app.get(&path, "range: bytes=5-2\r\n").await;
    assert!(
        reversed.starts_with("HTTP/1.1 416") && reversed.contains("content-range: bytes */10"),
        "{reversed}"
    );
    let several = app.get(&path, "range: bytes=0-0,5-6\r\n").await;
    assert!(
        several.contains("multipart/byteranges") && several.contains("bytes 5-6/10\r\n\r\n56\r\n"),
        "{several}"
    );
    let head = app
        .raw(format!("HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
        .await;
    assert!(
        head.contains("content-length: 10") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn conditions_hold_for_what_is_asked_for() {
    let app = app().await;
    let etag = format!("\"{}\"", app.blob);
    for (kind, condition, status) in [
        ("blobs", format!("if-none-match: W/{etag}, \"x\""), "304"),
        ("manifests", format!("if-none-match: {etag}"), "304"),
        ("manifests", "if-none-match: *".into(), "304"),
        (
            "blobs",
            format!("if-none-match: {etag}\r\nrange: bytes=5-2"),
            "304",
        ),
        ("blobs", "if-none-match: \"x\"".into(), "200"),
        ("manifests", "if-match: \"x\"".into(), "412"),
        ("manifests", format!("if-match: {etag}"), "200"),
        (
            "blobs",
            format!("range: bytes=0-0\r\nif-range: {etag}"),
            "206",
        ),
        ("blobs", "range: bytes=0-0\r\nif-range: \"x\"".into(), "200"),
    ] {
        let path = format!("/v2/a/b/{kind}/{}?ns=quay.io", app.blob);
        for method in ["GET", "HEAD"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{condition}\r\n\r\n"
            );
            let answer = app.raw(request.as_bytes()).await;
            let status = if (method, status) == ("HEAD", "206") {
                "200"
            } else {
                status
            };
            let said = format!("{method} {kind}, {condition}: {answer}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{said}");
            if status != "412" {
                assert!(answer.contains(&format!("\r\netag: {etag}\r\n")), "{said}");
            }
            if status == "304" {
                assert!(answer.ends_with("\r\n\r\n"), "{said}");
                assert!(!answer.contains("content-length"), "{said}");
                assert!(!answer.contains("content-type"), "{said}");
            }
        }
    }
    let absent = format!("/v2/a/b/blobs/{}?ns=quay.io", Digest::sha256(b"x"));
    let absent = app.get(&absent, "if-none-match: *\r\n").await;
    assert!(absent.starts_with("HTTP/1.1 404"), "{absent}");
}

#[tokio::test]
async fn a_request_names_one_host() {
    let app = app().await;
    for (request, status) in [
        ("GET /livez HTTP/1.0\r\n", "200"),
        ("GET /livez HTTP/1.1\r\nhost: \r\n", "200"),
        ("GET http://a/livez HTTP/1.1\r\nhost: a\r\n", "200"),
        ("GET /livez HTTP/1.1\r\n", "400"),
        ("GET http://a/livez HTTP/1.1\r\n", "400"),
        ("GET /livez HTTP/1.1\r\nhost: a\r\nhost: a\r\n", "400"),
        ("GET /livez HTTP/1.0\r\nhost: a\r\nhost: b\r\n", "400"),
        ("GET /livez HTTP/1.1\r\nhost: a/b\r\n", "400"),
    ] {
        let answer = app
            .raw(format!("{request}connection: close\r\n\r\n").as_bytes())
            .await;
        let line = answer.lines().next().unwrap_or_default();
        assert!(line.contains(status), "{request}: {answer}");
    }
}

#[tokio::test]
async fn http_2_with_prior_knowledge_is_refused_with_words() {
    let app = app().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let answer = app.raw(&[&preface[..], &settings].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    assert!(answer.contains("HTTP/1.1; have the client"), "{answer}");
}

#[tokio::test]
async fn pages_for_probes() {
    let app = app().await;
    for page in ["/v2/", "/v2", "/readyz", "/livez"] {
        assert!(
            app.get(page, "").await.starts_with("HTTP/1.1 200"),
            "{page}"
        );
    }
}

#[tokio::test]
async fn what_was_begun_is_finished_at_shutdown() {
    let app = app().await;
    let mut idle = TcpStream::connect(app.address).await.expect("listening");
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("open");
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200");
    app.shutdown.cancel();
    app.server
        .await
        .expect("it ends though a connection is kept alive");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.expect("closed in order");
    assert!(
        TcpStream::connect(app.address).await.is_err(),
        "the port is closed"
    );
}

/// Between the two steps of a shutdown the port serves one more request on each connection; after the second,
/// connections in the kernel's queue are served too.
#[tokio::test]
async fn whoever_connects_while_the_port_drains_is_served_once() {
    const GET: &[u8] = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    async fn answer(mut stream: TcpStream) -> String {
        stream.write_all(GET).await.expect("open");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("closed in order");
        answer
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let shutdown = Shutdown {
        drain: CancellationToken::new(),
        close: CancellationToken::new(),
    };
    let handler = |_, _| async { Response::new(Body::empty()) };
    let limits = ConnectionLimits::default().registry;
    let server = serve(limits, listener, shutdown.clone(), handler);
    let connect = || TcpStream::connect(address);
    let clients = async {
        let silent = connect().await.expect("listening");
        let mut kept = connect().await.expect("listening");
        kept.write_all(GET).await.expect("open");
        let mut status = [0; 12];
        kept.read_exact(&mut status).await.expect("an answer");
        // Accepted after the silent one, which therefore is accepted too.
        shutdown.drain.cancel();
        kept.read_to_end(&mut Vec::new()).await.expect("closed");
        let first = answer(silent).await;
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        assert!(first.contains("connection: close"), "{first}");
        let drained = answer(connect().await.expect("listening")).await;
        assert!(drained.starts_with("HTTP/1.1 200"), "{drained}");
        assert!(drained.contains("connection: close"), "{drained}");
        // On this single thread the server accepts nothing until this task waits.
        let waiting = std::net::TcpStream::connect(address).expect("listening");
        shutdown.close.cancel();
        waiting.set_nonblocking(true).expect("a socket");
        let waiting = TcpStream::from_std(waiting).expect("a socket");
        let late = answer(waiting).await;
        assert!(late.starts_with("HTTP/1.1 200"), "{late}");
    };
    tokio::join!(server, clients);
    assert!(connect().await.is_err(), "the port is closed");
}
