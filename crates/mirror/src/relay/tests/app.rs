//! A mirror and its peers, each a real socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use oci::Digest;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::fetch::Limits;
use crate::memory::{MemoryCluster, MemoryStore};
use crate::mirror::{Adapters, ConnectionAddresses, Mirror, Options};
use crate::request::LINK_TEST;
use crate::{Body, Candidate, Growing, IngestStage, PeerId, Progress, Router};

/// The behaviour of a peer on its connections.
#[derive(Clone)]
pub enum Peer {
    /// Serves the object, ranges included.
    Good(Bytes),
    /// Serves this many bytes of the requested range, then closes.
    Breaks(Bytes, usize),
    /// The same, then sends nothing more.
    Stalls(Bytes, usize),
    /// Serves this many bytes every 100 ms.
    Trickles(Bytes, usize),
    /// Accepts the request and never answers.
    Silent,
    /// Has nothing.
    Lacks,
    /// Answers 200 with other bytes of the same length.
    Lies(Bytes),
    /// Answers 416, with this size.
    Denies(u64),
    /// Answers any request with this head and body, and sends nothing more.
    Answers(&'static str, Bytes),
}

async fn spawn(number: usize, peer: Peer, asked: Asked) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(stream, number, peer.clone(), asked.clone()));
        }
    });
    address
}

async fn talk(mut stream: TcpStream, number: usize, peer: Peer, asked: Asked) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8_lossy(&request).to_lowercase();
    asked.lock().push((number, text.clone()));
    assert!(
        text.contains("x-spegel-mirrored: true") || text.contains(LINK_TEST),
        "a peer is always told that its answer is final"
    );
    let (bytes, sent, then_wait) = match &peer {
        Peer::Trickles(bytes, _) | Peer::Good(bytes) | Peer::Lies(bytes) => {
            (bytes.clone(), usize::MAX, false)
        }
        Peer::Breaks(bytes, sent) => (bytes.clone(), *sent, false),
        Peer::Stalls(bytes, sent) => (bytes.clone(), *sent, true),
        Peer::Silent => std::future::pending().await,
        Peer::Answers(head, body) => {
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(body).await;
            std::future::pending().await
        }
        Peer::Denies(size) => {
            let head = format!(
                "HTTP/1.1 416 No\r\ncontent-range: bytes */{size}\r\ncontent-length: 0\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes()).await;
            return;
        }
        Peer::Lacks => {
            let _ = stream
                .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                .await;
            return;
        }
    };
    let range = text
        .split("range: bytes=")
        .nth(1)
        .and_then(|rest| rest.split(['\r', ',']).next());
    let (head, body) = match range.and_then(|range| range.split_once('-')) {
        None => (
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len()),
            bytes.clone(),
        ),
        Some((first, last)) => {
            let first: usize = first.parse().expect("these tests ask for a first byte");
            let last = last
                .parse()
                .map_or(bytes.len() - 1, |last: usize| last.min(bytes.len() - 1));
            let part = bytes.slice(first..=last);
            let (size, length) = (bytes.len(), part.len());
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {first}-{last}/{size}\r\ncontent-length: {length}\r\n\r\n"
            );
            (head, part)
        }
    };
    let _ = stream.write_all(head.as_bytes()).await;
    if let Peer::Trickles(_, size) = peer {
        for piece in body.chunks(size) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        return;
    }
    let _ = stream.write_all(&body[..sent.min(body.len())]).await;
    if then_wait {
        std::future::pending::<()>().await;
    }
}

pub struct TestApp {
    pub mirror: Mirror,
    pub store: Arc<MemoryStore>,
    registry: Registry,
    /// The requests to the peers, by their number.
    asked: Asked,
    ingests: Mutex<Vec<watch::Sender<Progress>>>,
}

type Asked = Arc<Mutex<Vec<(usize, String)>>>;

/// A mirror with an empty store whose peers announce `digest`.
pub async fn app(digest: &Digest, peers: &[Peer]) -> TestApp {
    app_of(oci::Key::Digest(digest.clone()), peers).await
}

pub async fn app_of(key: oci::Key, peers: &[Peer]) -> TestApp {
    app_of_all(vec![key], peers).await
}

/// The same, but all peers announce all keys.
pub async fn app_of_all(keys: Vec<oci::Key>, peers: &[Peer]) -> TestApp {
    let (cluster, asked) = (MemoryCluster::default(), Asked::default());
    for (number, peer) in peers.iter().enumerate() {
        let node = candidate(number, spawn(number, peer.clone(), asked.clone()).await);
        cluster.router(node).announce(keys.clone()).await;
    }
    let here = candidate(9999, SocketAddr::from(([127, 0, 0, 1], 1)));
    app_by(Arc::new(cluster.router(here)), asked)
}

/// A mirror with an empty store and this router.
pub fn app_by(router: Arc<dyn Router>, asked: Asked) -> TestApp {
    let store = Arc::new(MemoryStore::default());
    let parts = Adapters {
        store: store.clone(),
        router,
        pull_through: None,
        checks: None,
        flights: None,
    };
    let options = Options {
        access: crate::Access {
            resolve_tags: true,
            ..Default::default()
        },
        reader: crate::Reader::default(),
        limits: Limits {
            resolve_timeout: Duration::from_secs(5),
            attempts: 3,
        },
    };
    let mut registry = Registry::default();
    TestApp {
        mirror: Mirror::new(parts, options, &mut registry),
        store,
        registry,
        asked,
        ingests: Mutex::default(),
    }
}

fn candidate(number: usize, address: SocketAddr) -> Candidate {
    Candidate {
        peer: PeerId::new(&format!("peer{number}")),
        addresses: Arc::new([address]),
    }
}

impl TestApp {
    pub async fn get(&self, path: &str, headers: HeaderMap) -> Response<Body> {
        self.get_from([10, 0, 0, 1], path, headers).await
    }

    /// The answer for a client at this address.
    pub async fn get_from(&self, ip: [u8; 4], path: &str, headers: HeaderMap) -> Response<Body> {
        let mut request = http::Request::get(path).body(()).expect("a request");
        *request.headers_mut() = headers;
        self.answer_to(ip, request).await
    }

    pub async fn answer(&self, request: http::Request<()>) -> Response<Body> {
        self.answer_to([10, 0, 0, 1], request).await
    }

    /// The answer for a client at this address.
    pub async fn answer_to(&self, ip: [u8; 4], request: http::Request<()>) -> Response<Body> {
        let addresses = ConnectionAddresses {
            remote: SocketAddr::from((ip, 1)),
            local: SocketAddr::from(([10, 0, 0, 2], 5000)),
        };
        self.mirror.answer(&request.into_parts().0, addresses).await
    }

    pub async fn blob(&self, digest: &Digest) -> Response<Body> {
        self.blob_for(digest, [10, 0, 0, 1]).await
    }

    /// The answer for a client at this address.
    pub async fn blob_for(&self, digest: &Digest, ip: [u8; 4]) -> Response<Body> {
        let path = format!("/v2/lab/app/blobs/{digest}?ns=quay.io");
        self.get_from(ip, &path, HeaderMap::new()).await
    }

    /// Opens an ingest of the node's containerd, so that the next request for the object is its own.
    pub fn ingest(&self, digest: &Digest) {
        let (writer, progress) = watch::channel(Progress {
            written: 0,
            total: None,
            stage: IngestStage::Filling,
        });
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        self.store.ingest_from(digest, Growing::new(file, progress));
        self.ingests.lock().push(writer);
    }

    /// containerd gives up all of its ingests, as after a commit that failed.
    pub fn give_up_ingests(&self) {
        for writer in self.ingests.lock().drain(..) {
            writer.send_modify(|progress| progress.stage = IngestStage::Failed);
        }
    }

    /// The requests to the peers: the peer's number, and the head in lower case.
    pub fn asked(&self) -> Vec<(usize, String)> {
        self.asked.lock().clone()
    }

    /// Pulls a blob as containerd does: continues where a body ended, until it has everything or is sent upstream.
    /// Returns the number of bytes received here.
    pub async fn pull(&self, digest: &Digest) -> u64 {
        self.ingest(digest);
        let (mut offset, mut empty_attempts) = (0u64, 0);
        loop {
            let mut headers = HeaderMap::new();
            if offset > 0 {
                let range = format!("bytes={offset}-").parse().expect("a value");
                headers.insert(http::header::RANGE, range);
            }
            let path = format!("/v2/lab/app/blobs/{digest}?ns=quay.io");
            let response = self.get(&path, headers).await;
            if response.status() == http::StatusCode::NOT_FOUND {
                return offset;
            }
            let (before, mut body) = (offset, response.into_body());
            loop {
                match body.frame().await {
                    None => return offset,
                    Some(Err(_)) => break,
                    Some(Ok(frame)) => offset += frame.into_data().expect("data").len() as u64,
                }
            }
            empty_attempts = if offset == before {
                empty_attempts + 1
            } else {
                0
            };
            assert!(empty_attempts <= 1, "containerd gives up after three");
        }
    }

    pub fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text");
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .expect("a metric");
        line.rsplit(' ')
            .next()
            .and_then(|value| value.parse().ok())
            .expect("a number")
    }
}

pub async fn whole(response: Response<Body>) -> Result<Bytes, crate::BodyError> {
    response
        .into_body()
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
}
