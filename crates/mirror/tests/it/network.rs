//! Nodes of a network with a key, and nodes and clients without this key.

use mirror::memory::MemoryStore;
use mirror::{FLIGHT, REPORT, Router as _};
use network_key::{Keyring, NetworkKeys};
use oci::Key;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;

/// A node whose registry listens on loopback.
pub(super) struct Node {
    mirror: Arc<Mirror>,
    store: Arc<MemoryStore>,
    pub(super) address: SocketAddr,
    router: Arc<mirror::memory::MemoryRouter>,
    keys: Option<Keyring>,
    pub(super) metrics: Registry,
    _serving: DropGuard,
}

/// Keys made of these letters, one on each line.
fn keys(letters: &str) -> NetworkKeys {
    let lines: Vec<_> = letters.chars().map(|c| c.to_string().repeat(32)).collect();
    NetworkKeys::parse(lines.join("\n").as_bytes()).unwrap_or_default()
}

/// A node with these keys. `None`: any client may be its peer.
async fn node(cluster: &MemoryCluster, name: &str, letters: Option<&str>) -> Node {
    let access = Access {
        network_keys: letters.map(|letters| Keyring::new(keys(letters))),
        ..Access::default()
    };
    start(cluster, name, access).await
}

pub(super) async fn start(cluster: &MemoryCluster, name: &str, access: Access) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let candidate = Candidate {
        peer: PeerId::new(name),
        addresses: Arc::new([address]),
    };
    let (store, router) = (Arc::default(), Arc::new(cluster.router(candidate)));
    let parts = Adapters {
        store: Arc::clone(&store) as _,
        router: router.clone(),
        pull_through: None,
        checks: None,
        flights: None,
    };
    let keys = access.network_keys.clone();
    let options = Options {
        access: Access {
            resolve_tags: true,
            ..access
        },
        reader: Reader::default(),
        limits: Limits {
            resolve_timeout: Duration::from_secs(5),
            attempts: 3,
        },
    };
    let mut metrics = Registry::default();
    let mirror = Arc::new(Mirror::new(parts, options, &mut metrics));
    let stop = CancellationToken::new();
    let serving = mirror::serve::registry(listener, mirror.clone(), stop.clone());
    tokio::spawn(serving);
    Node {
        mirror,
        store,
        address,
        router,
        keys,
        metrics,
        _serving: stop.drop_guard(),
    }
}

impl Node {
    /// Puts an object into the store and announces it.
    pub(super) async fn hold(&self, bytes: Bytes) -> Digest {
        let origin = Origin {
            registry: "quay.io".parse().expect("a registry"),
            repository: "a/b".parse().expect("a repository"),
        };
        let digest = self.store.put(&origin, bytes);
        let key = Key::Digest(digest.clone());
        self.router.announce(vec![key]).await;
        digest
    }

    fn rotate(&self, letters: &str) {
        self.keys.as_ref().expect("a key").replace(keys(letters));
    }

    pub(super) async fn ask(
        &self,
        method: http::Method,
        path: &str,
        remote: SocketAddr,
        headers: HeaderMap,
    ) -> StatusCode {
        let mut request = http::Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("a path");
        *request.headers_mut() = headers;
        let addresses = ConnectionAddresses {
            remote,
            local: HERE,
        };
        let answer = self.mirror.answer(&request.into_parts().0, addresses).await;
        let status = answer.status();
        // A whole body, to check what the peer sends.
        let body = answer.into_body().collect().await.expect("a whole body");
        drop(body);
        status
    }

    /// The status for this node's own client.
    pub(super) async fn get(&self, digest: &Digest) -> StatusCode {
        let path = format!("/v2/a/b/blobs/{digest}?ns=quay.io");
        self.ask(http::Method::GET, &path, HERE, HeaderMap::new())
            .await
    }
}

/// The headers that strangers may send, as peers and as clients.
pub(super) fn guises() -> Vec<HeaderMap> {
    let mirrored = (MIRRORED, HeaderValue::from_static("true"));
    let follows = (FLIGHT, HeaderValue::from_static("1-1"));
    let proof = http::HeaderName::from_static("x-peili-network-proof");
    let forged = format!("1764376000.{}", "0".repeat(64));
    let forged = (proof, HeaderValue::from_str(&forged).expect("a value"));
    vec![
        HeaderMap::new(),
        HeaderMap::from_iter([mirrored.clone()]),
        HeaderMap::from_iter([mirrored.clone(), follows]),
        HeaderMap::from_iter([mirrored, forged]),
    ]
}

#[tokio::test]
async fn a_stranger_gets_no_manifest_no_blob_and_no_entry() {
    let cluster = MemoryCluster::default();
    let holder = node(&cluster, "holder", Some("a")).await;
    let blob = holder.hold(layer()).await;
    let manifest = r#"{"schemaVersion":2,"layers":[]}"#;
    let manifest = holder.hold(Bytes::from_static(manifest.as_bytes())).await;
    let paths = [
        format!("/v2/a/b/blobs/{blob}?ns=quay.io"),
        format!("/v2/a/b/manifests/{manifest}?ns=quay.io"),
        format!("{REPORT}?digest={blob}"),
        "/link-test".to_owned(),
    ];
    for (path, headers) in paths
        .iter()
        .flat_map(|path| guises().into_iter().map(move |h| (path, h)))
    {
        for method in [http::Method::GET, http::Method::HEAD] {
            let status = holder.ask(method, path, ELSEWHERE, headers.clone()).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path} {headers:?}");
        }
    }
    // A client that claims to be a peer must prove it, even on this host.
    let peer = HeaderMap::from_iter([(MIRRORED, HeaderValue::from_static("true"))]);
    let status = holder.ask(http::Method::GET, &paths[0], HERE, peer).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(holder.get(&blob).await, StatusCode::OK, "its own client");
    for probe in ["/livez", "/readyz", "/v2/"] {
        let status = holder.ask(http::Method::GET, probe, ELSEWHERE, HeaderMap::new());
        assert_eq!(status.await, StatusCode::OK, "{probe}");
    }
}

#[tokio::test]
async fn nodes_that_have_a_key_in_common_share() {
    let cluster = MemoryCluster::default();
    let holder = node(&cluster, "holder", Some("ba")).await;
    let open = node(&cluster, "open", None).await;
    let blob = holder.hold(layer()).await;
    for (letters, status) in [
        (Some("a"), StatusCode::OK),
        (Some("bc"), StatusCode::OK),
        (Some("c"), StatusCode::NOT_FOUND),
        (Some(""), StatusCode::NOT_FOUND),
        (None, StatusCode::NOT_FOUND),
    ] {
        let asker = node(&cluster, "asker", letters).await;
        assert_eq!(asker.get(&blob).await, status, "{letters:?}");
    }
    // For a node without a key any client may be a peer.
    let other = open.hold(Bytes::from_static(b"open")).await;
    assert_eq!(holder.get(&other).await, StatusCode::OK);
}

#[tokio::test]
async fn a_rotation_cuts_nobody_off() {
    let cluster = MemoryCluster::default();
    let (one, two) = (
        node(&cluster, "one", Some("a")).await,
        node(&cluster, "two", Some("a")).await,
    );
    let steps = [
        (&one, "a"),
        (&two, "ba"),
        (&one, "ba"),
        (&one, "b"),
        (&two, "b"),
    ];
    for (number, (node, letters)) in steps.into_iter().enumerate() {
        node.rotate(letters);
        for (from, to) in [(&one, &two), (&two, &one)] {
            let bytes = format!("{number} of {}", from.router.own_id().expect("a name"));
            let blob = from.hold(bytes.into()).await;
            assert_eq!(to.get(&blob).await, StatusCode::OK, "step {number}");
        }
    }
    // Without a pause: keys count for the next request of an open connection.
    two.rotate("c");
    let blob = one.hold(Bytes::from_static(b"after")).await;
    assert_eq!(two.get(&blob).await, StatusCode::NOT_FOUND);
}
