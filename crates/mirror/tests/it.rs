//! A mirror that fills its own store: what comes from upstream, how often, and which clients may have it. The store is
//! the real one. Upstream is a fake, since these tests are about upstreams that move, break, lie or disappear.

#[path = "it/flights.rs"]
mod flights;
#[path = "it/forms.rs"]
mod forms;
#[path = "it/measured.rs"]
mod measured;
#[path = "it/network.rs"]
mod network;
#[path = "it/peer_tls.rs"]
mod peer_tls;
#[path = "it/pull_through.rs"]
mod pull_through;
#[path = "it/siblings.rs"]
mod siblings;
#[path = "it/upstream.rs"]
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use layout::Layout;
use mirror::memory::MemoryCluster;
use mirror::{
    Access, Adapters, Body, Candidate, ConnectionAddresses, Flights, Limits, MIRRORED, Mirror,
    Options, PeerId, PullThrough, Reader, Router, UpstreamError, UpstreamReason,
};
use oci::{Digest, Origin};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use upstream::{Fake, Refuse};

struct TestApp {
    mirror: Arc<Mirror>,
    upstream: Arc<Fake>,
    folder: tempfile::TempDir,
}

const HERE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
    5000,
);
const ELSEWHERE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)),
    9,
);

fn app() -> TestApp {
    app_of_cluster(None)
}

fn app_of_cluster(flights: Option<Arc<dyn Flights>>) -> TestApp {
    app_of(100 << 20, flights)
}

/// `limit`: that of the store, in bytes.
fn app_of(limit: u64, flights: Option<Arc<dyn Flights>>) -> TestApp {
    let node = Candidate {
        peer: PeerId::new("here"),
        addresses: Arc::new([HERE]),
    };
    let router = Arc::new(MemoryCluster::default().router(node));
    app_by(router, limit, flights)
}

fn app_by(router: Arc<dyn Router>, limit: u64, flights: Option<Arc<dyn Flights>>) -> TestApp {
    let folder = tempfile::tempdir().expect("a folder");
    let mut registry = Registry::default();
    let options = layout::Options {
        path: folder.path().join("store"),
        limit,
    };
    let store = Arc::new(Layout::open(&options, &mut registry).expect("a new store"));
    let upstream = Arc::new(Fake::default());
    let parts = Adapters {
        store: store.clone(),
        router,
        pull_through: Some(PullThrough {
            intake: store,
            upstream: upstream.clone(),
        }),
        checks: None,
        flights,
    };
    let options = Options {
        access: Access {
            resolve_tags: true,
            own_names: vec!["node-1".into()],
            ..Access::default()
        },
        reader: Reader::default(),
        limits: Limits {
            resolve_timeout: Duration::from_secs(1),
            attempts: 3,
        },
    };
    let mirror = Arc::new(Mirror::new(parts, options, &mut registry));
    TestApp {
        mirror,
        upstream,
        folder,
    }
}

impl TestApp {
    async fn ask(&self, path: &str, remote: SocketAddr, headers: HeaderMap) -> Response<Body> {
        let mut request = http::Request::get(format!("/v2/a/b/{path}?ns=quay.io"))
            .body(())
            .expect("a request");
        *request.headers_mut() = headers;
        self.mirror
            .answer(
                &request.into_parts().0,
                ConnectionAddresses {
                    remote,
                    local: HERE,
                },
            )
            .await
    }

    /// The answer for a client on this host.
    async fn get(&self, path: &str) -> (StatusCode, Bytes) {
        read(self.ask(path, HERE, HeaderMap::new()).await).await
    }

    /// The status for a client on another host.
    async fn get_from_elsewhere(&self, path: &str) -> StatusCode {
        self.ask(path, ELSEWHERE, HeaderMap::new()).await.status()
    }

    fn asked(&self) -> usize {
        self.upstream.blobs_asked.load(Ordering::Relaxed)
    }

    /// Waits until an object has become part of the store, which happens after its last byte was sent.
    async fn stored(&self, digest: &Digest) {
        let peers_view = HeaderMap::from_iter([(MIRRORED, HeaderValue::from_static("true"))]);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while self
            .ask(&format!("blobs/{digest}"), ELSEWHERE, peers_view.clone())
            .await
            .status()
            != StatusCode::OK
        {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{digest} was not stored"
            );
            tokio::task::yield_now().await;
        }
    }
}

async fn read(response: Response<Body>) -> (StatusCode, Bytes) {
    let status = response.status();
    let body = response.into_body().collect().await.expect("a whole body");
    (status, body.to_bytes())
}

fn layer() -> Bytes {
    (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect()
}

#[tokio::test]
async fn what_many_ask_for_at_once_comes_from_upstream_once() {
    let app = app();
    let digest = app.upstream.put(layer());
    let path = format!("blobs/{digest}");
    let answers = futures::future::join_all((0..8).map(|_| app.get(&path))).await;
    for (status, bytes) in answers {
        assert_eq!(status, StatusCode::OK);
        assert!(bytes == layer());
    }
    assert_eq!(app.asked(), 1);
    app.stored(&digest).await;
    *app.upstream.gone.lock() = true;
    assert!(app.get(&path).await.1 == layer(), "it is here now");
}

#[tokio::test]
async fn a_snapshot_tells_why_bytes_came_from_upstream() {
    let app = app();
    let (size, digest) = (layer().len() as u64, app.upstream.put(layer()));
    app.get(&format!("blobs/{digest}")).await;
    let snapshot = app.mirror.snapshot().await;
    assert!(snapshot.running.is_empty(), "{snapshot:?}");
    let ended = &snapshot.finished[0];
    assert!(ended.is_complete && ended.object.digest == digest.as_str());
    assert_eq!(ended.object.from_upstream[&UpstreamReason::NoPeer], size);
    assert_eq!(snapshot.totals.from_upstream[&UpstreamReason::NoPeer], size);
}

#[tokio::test]
async fn a_range_of_what_is_still_coming() {
    let app = app();
    let digest = app.upstream.put(layer());
    let range = HeaderMap::from_iter([(
        http::header::RANGE,
        HeaderValue::from_static("bytes=2000000-2000009"),
    )]);
    let (status, bytes) = read(app.ask(&format!("blobs/{digest}"), HERE, range).await).await;
    assert_eq!(status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(bytes, layer().slice(2_000_000..2_000_010));
}

#[tokio::test]
async fn a_broken_upstream_is_gone_on_with_from_where_it_broke() {
    let app = app();
    *app.upstream.breaks_after.lock() = Some(1_200_000);
    let digest = app.upstream.put(layer());
    let (status, bytes) = app.get(&format!("blobs/{digest}")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(bytes == layer());
    assert_eq!(app.asked(), 3);
}

#[tokio::test]
async fn wrong_bytes_never_become_part_of_the_store() {
    let app = app();
    let digest = Digest::sha256(b"what it should be");
    app.upstream
        .objects
        .lock()
        .insert(digest.clone(), Bytes::from_static(b"what it is instead"));
    let _ = app
        .ask(&format!("blobs/{digest}"), HERE, HeaderMap::new())
        .await
        .into_body()
        .collect()
        .await;
    app.upstream
        .objects
        .lock()
        .insert(digest.clone(), Bytes::from_static(b"what it should be"));
    app.stored_after_retry(&digest).await;
    assert_eq!(
        app.get(&format!("blobs/{digest}")).await.1,
        "what it should be"
    );
}

impl TestApp {
    /// Repeats the request until the object is stored: a first attempt may still be giving up.
    async fn stored_after_retry(&self, digest: &Digest) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let body = self
                .ask(&format!("blobs/{digest}"), HERE, HeaderMap::new())
                .await
                .into_body();
            if body
                .collect()
                .await
                .is_ok_and(|body| digest.verifies(&body.to_bytes()))
            {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{digest} never came right"
            );
        }
    }
}

#[tokio::test]
async fn a_tag_is_what_upstream_says_and_the_last_known_while_upstream_is_gone() {
    let app = app();
    let layer = app.upstream.put(layer());
    let old = app.upstream.image("latest", &layer);
    let (status, bytes) = app.get("manifests/latest").await;
    assert_eq!(status, StatusCode::OK);
    assert!(old.verifies(&bytes));

    let other = app.upstream.put(Bytes::from_static(b"another layer"));
    let new = app.upstream.image("latest", &other);
    assert!(
        new.verifies(&app.get("manifests/latest").await.1),
        "the tag has moved"
    );

    *app.upstream.gone.lock() = true;
    assert!(
        new.verifies(&app.get("manifests/latest").await.1),
        "the last that was known"
    );
    assert_eq!(
        app.get("manifests/never-seen").await.0,
        StatusCode::NOT_FOUND
    );
}

/// A page of evil.example, whose name was made to resolve to this host, has the mirror's own origin for the browser.
#[tokio::test]
async fn a_client_on_this_host_that_asks_for_another_host_gets_nothing() {
    let app = app();
    let digest = app.upstream.put(layer());
    let path = format!("blobs/{digest}");
    let status = async |remote, host: &'static str| {
        let host = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static(host))]);
        app.ask(&path, remote, host).await.status()
    };
    let loopback = SocketAddr::from(([127, 0, 0, 1], 9));
    for remote in [HERE, loopback] {
        let foreign = status(remote, "evil.example:5000").await;
        assert_eq!(foreign, StatusCode::MISDIRECTED_REQUEST);
    }
    assert_eq!(app.asked(), 0);
    for host in ["10.0.0.1:5000", "localhost:5000", "[::1]", "node-1:5000"] {
        assert_eq!(status(loopback, host).await, StatusCode::OK, "{host}");
    }
    app.stored(&digest).await;
    // Whatever name another host uses, it is not a client of this node's own.
    assert_eq!(status(ELSEWHERE, "ingress.example").await, StatusCode::OK);
}

#[tokio::test]
async fn what_took_credentials_is_for_this_host_alone() {
    let app = app();
    *app.upstream.private.lock() = true;
    let layer = app.upstream.put(layer());
    let manifest = app.upstream.image("1", &layer);
    let paths = [
        "manifests/1".to_owned(),
        format!("manifests/{manifest}"),
        format!("blobs/{layer}"),
    ];
    for path in &paths {
        assert_eq!(
            app.get_from_elsewhere(path).await,
            StatusCode::NOT_FOUND,
            "{path}, before it is here"
        );
    }
    for path in &paths {
        assert_eq!(app.get(path).await.0, StatusCode::OK, "{path}");
    }
    for path in &paths {
        assert_eq!(
            app.get_from_elsewhere(path).await,
            StatusCode::NOT_FOUND,
            "{path}, now that it is here"
        );
    }
    let peer = HeaderMap::from_iter([(MIRRORED, HeaderValue::from_static("true"))]);
    let response = app.ask(&format!("blobs/{layer}"), HERE, peer).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND, "a peer");
}
