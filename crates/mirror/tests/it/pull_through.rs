//! A mirror in front of a registry, for clients that use one source for a whole image.

use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, RANGE, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use mirror::{Health, Search};
use oci::Key;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;

fn containerd() -> HeaderMap {
    let agent = HeaderValue::from_static("containerd/v2.1.9");
    HeaderMap::from_iter([(USER_AGENT, agent)])
}

fn known() -> HeaderMap {
    let authorization = HeaderValue::from_static("Basic bWU6cHc=");
    HeaderMap::from_iter([(AUTHORIZATION, authorization)])
}

fn range(text: &str) -> HeaderMap {
    HeaderMap::from_iter([(RANGE, HeaderValue::from_str(text).expect("a header"))])
}

fn turned_away(origin: Origin) -> UpstreamError {
    UpstreamError::TooManyRequests {
        origin,
        retry_after: None,
    }
}

fn unknown(origin: Origin) -> UpstreamError {
    let challenge = |text| HeaderValue::from_static(text);
    UpstreamError::Denied {
        origin,
        challenges: vec![
            challenge("Bearer realm=\"https://a.io/token\""),
            challenge("Basic"),
        ],
    }
}

impl TestApp {
    async fn head(&self, path: &str) -> Response<Body> {
        let request = http::Request::head(format!("/v2/a/b/{path}?ns=quay.io"));
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let addresses = ConnectionAddresses {
            remote: HERE,
            local: HERE,
        };
        self.mirror.answer(&head, addresses).await
    }

    fn bytes_sent(&self) -> usize {
        self.upstream.bytes_sent.load(Ordering::Relaxed)
    }

    fn refuse(&self, with: Option<Refuse>) {
        *self.upstream.refusal.lock() = with;
    }
}

#[tokio::test]
async fn heads_and_parts_fetch_nothing_else() {
    let app = app();
    let digest = app.upstream.put(layer());
    let path = format!("blobs/{digest}");
    let head = app.head(&path).await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()[CONTENT_LENGTH], "3000000");
    assert_eq!(app.bytes_sent(), 0);
    let last = app.ask(&path, HERE, range("bytes=-51")).await;
    assert_eq!(
        last.headers()["content-range"],
        "bytes 2999949-2999999/3000000"
    );
    assert_eq!(read(last).await.1, layer().slice(2_999_949..));
    assert_eq!(app.bytes_sent(), 51);
    let several = app.ask(&path, HERE, range("bytes=0-9,100-109")).await;
    assert_eq!(several.status(), StatusCode::PARTIAL_CONTENT);
    let several = read(several).await.1;
    assert!(
        several
            .windows(10)
            .any(|part| part == layer().slice(100..110))
    );
    assert_eq!(app.bytes_sent(), 51 + 10 + 10);
    let outside = app.ask(&path, HERE, range("bytes=3000000-")).await;
    assert_eq!(outside.status(), StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn the_whole_is_fetched_beside_once_its_parts_cost_as_much() {
    let app = app();
    let digest = app.upstream.put(layer());
    let path = format!("blobs/{digest}");
    for part in ["bytes=0-999999", "bytes=1000000-1999999"] {
        let part = app.ask(&path, HERE, range(part)).await;
        assert_eq!(read(part).await.1.len(), 1_000_000);
    }
    app.stored(&digest).await;
    assert_eq!(app.asked(), 3);
}

#[tokio::test]
async fn what_cannot_be_kept_is_handed_on_all_the_same() {
    let app = app_of(2_000_000, None);
    let readiness = async || read(app.mirror.readiness()).await;
    assert_eq!(readiness().await.1, "ready");
    let digest = app.upstream.put(layer());
    let path = format!("blobs/{digest}");
    for tells_no_size in [false, true] {
        *app.upstream.tells_no_size.lock() = tells_no_size;
        for _ in 0..2 {
            let (status, bytes) = app.get(&path).await;
            assert_eq!(status, StatusCode::OK);
            assert!(bytes == layer(), "{} bytes", bytes.len());
        }
        let part = app.ask(&path, HERE, range("bytes=2999990-2999999")).await;
        let first = if tells_no_size { 0 } else { 2_999_990 };
        assert!(read(part).await.1 == layer().slice(first..));
    }
    let (status, text) = readiness().await;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(status, StatusCode::OK);
    assert!(
        text.contains("/store: an object of ") && text.contains("a store of 2000000"),
        "{text}"
    );
}

#[tokio::test]
async fn what_has_no_length_is_sent_as_it_comes() {
    let app = app();
    *app.upstream.tells_no_size.lock() = true;
    let gate = Arc::new(Semaphore::new(1000));
    *app.upstream.gate.lock() = Some(gate.clone());
    let digest = app.upstream.put(layer());
    let answer = app
        .ask(&format!("blobs/{digest}"), HERE, HeaderMap::new())
        .await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers().get(CONTENT_LENGTH), None);
    let mut body = answer.into_body();
    let first = body.frame().await.expect("bytes").expect("good");
    assert!(
        first
            .data_ref()
            .is_some_and(|data| layer().starts_with(data))
    );
    gate.add_permits(layer().len());
    let rest = body.collect().await.expect("a whole body").to_bytes();
    assert_eq!(
        first.into_data().expect("data").len() + rest.len(),
        3_000_000
    );
    app.stored(&digest).await;
}

#[tokio::test]
async fn a_manifest_tells_the_size_that_upstream_does_not() {
    let app = app();
    *app.upstream.tells_no_size.lock() = true;
    let layer = app.upstream.put(Bytes::from_static(b"x"));
    app.upstream.image("1", &layer);
    app.get("manifests/1").await;
    let head = app.head(&format!("blobs/{layer}")).await;
    assert_eq!(head.headers()[CONTENT_LENGTH], "1");
}

#[tokio::test]
async fn what_an_image_is_begun_with_is_given_only_if_the_rest_can_be_had() {
    let app = app();
    let layer = app.upstream.put(layer());
    let manifest = app.upstream.image("1", &layer);
    let (by_tag, by_digest) = ("manifests/1".to_owned(), format!("manifests/{manifest}"));
    assert_eq!(app.get(&by_tag).await.0, StatusCode::OK);
    app.refuse(Some(turned_away));
    let refused = app.ask(&by_tag, HERE, HeaderMap::new()).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()[RETRY_AFTER], "1");
    let refused = app.ask(&by_digest, HERE, HeaderMap::new()).await;
    assert_eq!(
        refused.status(),
        StatusCode::TOO_MANY_REQUESTS,
        "its layer is not here"
    );
    for path in [&by_tag, &by_digest] {
        let answer = app.ask(path, HERE, containerd()).await;
        assert_eq!(
            answer.status(),
            StatusCode::OK,
            "containerd asks elsewhere for the rest"
        );
    }
    app.refuse(None);
    let config = Digest::sha256(b"{}");
    for blob in [&layer, &config] {
        app.get(&format!("blobs/{blob}")).await;
        app.stored(blob).await;
    }
    app.refuse(Some(turned_away));
    for path in [&by_tag, &by_digest] {
        assert_eq!(app.get(path).await.0, StatusCode::OK, "all of it is here");
    }
}

#[tokio::test]
async fn no_image_is_begun_whose_layers_are_refused() {
    let app = app();
    let layer = app.upstream.put(layer());
    let manifest = app.upstream.image("1", &layer);
    app.upstream
        .image("2", &app.upstream.put(Bytes::from_static(b"2")));
    *app.upstream.blob_refusal.lock() = Some(turned_away);
    let by_digest = format!("manifests/{manifest}");
    let paths = ["manifests/1", &by_digest, "manifests/2"];
    let status = async |path, headers| app.ask(path, HERE, headers).await.status();
    let blob = format!("blobs/{layer}");
    assert_eq!(
        status("manifests/1", HeaderMap::new()).await,
        StatusCode::OK
    );
    assert_eq!(
        status(&blob, HeaderMap::new()).await,
        StatusCode::TOO_MANY_REQUESTS
    );
    for path in paths {
        assert_eq!(
            status(path, HeaderMap::new()).await,
            StatusCode::TOO_MANY_REQUESTS,
            "{path}"
        );
        for headers in [containerd(), known()] {
            assert_eq!(status(path, headers).await, StatusCode::OK, "{path}");
        }
    }
    *app.upstream.blob_refusal.lock() = None;
    assert_eq!(app.get(&blob).await.0, StatusCode::OK);
    for path in paths {
        assert_eq!(
            status(path, HeaderMap::new()).await,
            StatusCode::OK,
            "{path}: the registry sends blobs again"
        );
    }
}

#[tokio::test]
async fn who_is_unknown_upstream_is_told_how_to_sign_in() {
    let app = app();
    let layer = app.upstream.put(layer());
    app.upstream.image("1", &layer);
    app.refuse(Some(unknown));
    for path in ["manifests/1".to_owned(), format!("blobs/{layer}")] {
        let refused = app.ask(&path, HERE, HeaderMap::new()).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path}");
        let challenges = refused.headers().get_all(WWW_AUTHENTICATE);
        assert_eq!(challenges.iter().count(), 2);
        let refused = app.ask(&path, HERE, containerd()).await;
        assert_eq!(refused.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(refused.headers().get(WWW_AUTHENTICATE), None);
    }
}

#[tokio::test]
async fn what_a_client_has_credentials_for_is_its_own() {
    let app = app();
    *app.upstream.private.lock() = true;
    app.refuse(Some(unknown));
    let layer = app.upstream.put(layer());
    let manifest = app.upstream.image("1", &layer);
    let paths = [
        "manifests/1".to_owned(),
        format!("manifests/{manifest}"),
        format!("blobs/{layer}"),
    ];
    let gate = Arc::new(Semaphore::new(1000));
    *app.upstream.gate.lock() = Some(gate.clone());
    for path in &paths {
        let (first, second) = (
            app.ask(path, HERE, known()).await,
            app.ask(path, HERE, HeaderMap::new()).await,
        );
        assert_eq!(first.status(), StatusCode::OK, "{path}");
        assert_eq!(
            second.status(),
            StatusCode::UNAUTHORIZED,
            "{path}, on its way"
        );
        gate.add_permits(5000);
        first.into_body().collect().await.expect("whole");
        let after = app.ask(path, HERE, HeaderMap::new()).await;
        assert_eq!(after.status(), StatusCode::UNAUTHORIZED, "{path}, after");
    }
}

#[tokio::test]
async fn a_registry_that_cannot_be_reached_is_named() {
    let app = app();
    *app.upstream.gone.lock() = true;
    let (status, body) = app.get("manifests/1").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let told = "quay.io/a/b cannot be reached: gone";
    assert!(String::from_utf8_lossy(&body).contains(told), "{body:?}");
    let readiness = app.mirror.readiness();
    assert_eq!(readiness.status(), StatusCode::OK);
    let (_, text) = read(readiness).await;
    // Any client may ask for that.
    assert_eq!(text, "ready\nquay.io cannot be reached: gone");
}

#[tokio::test]
async fn lists_come_from_upstream_page_by_page() {
    let app = app();
    let list = |path: &str| {
        let request = http::Request::get(format!("/v2/{path}"));
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let addresses = ConnectionAddresses {
            remote: HERE,
            local: HERE,
        };
        let mirror = app.mirror.clone();
        async move { mirror.answer(&head, addresses).await }
    };
    for (path, next) in [
        (
            "a/b/tags/list?n=1&ns=quay.io",
            "</v2/a/b/tags/list?n=1&last=a&ns=quay.io>; rel=\"next\"",
        ),
        (
            "quay.io/a/b/tags/list?n=1",
            "</v2/quay.io/a/b/tags/list?n=1&last=a>; rel=\"next\"",
        ),
    ] {
        let page = list(path).await;
        assert_eq!(page.headers()["link"], next);
        assert_eq!(page.headers()["oci-filters-applied"], "artifactType");
        assert_eq!(read(page).await.1, "Tags n=1");
    }
    app.refuse(Some(unknown));
    let refused = list("quay.io/a/b/tags/list").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    *app.upstream.gone.lock() = true;
    let digest = Digest::sha256(b"x");
    let lost = list(&format!("quay.io/a/b/referrers/{digest}")).await;
    assert_eq!(lost.status(), StatusCode::BAD_GATEWAY, "not an empty list");
}

#[tokio::test]
async fn what_is_damaged_on_disk_is_fetched_anew_at_once() {
    let app = app();
    let digest = app.upstream.put(layer());
    let path = format!("blobs/{digest}");
    app.get(&path).await;
    app.stored(&digest).await;
    let file = app
        .folder
        .path()
        .join("store/blobs/sha256")
        .join(digest.encoded());
    std::fs::write(file, vec![0; 3_000_000]).expect("a file of the store");
    let (status, bytes) = app.get(&path).await;
    assert_eq!(status, StatusCode::OK);
    assert!(bytes == layer());
    assert_eq!(app.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_registry_is_waited_for_where_nobody_knows_the_tag() {
    let app = app();
    let layer = app.upstream.put(layer());
    let old = app.upstream.image("latest", &layer);
    *app.upstream.slow.lock() = Duration::from_secs(5);
    let refused = app.ask("manifests/latest", HERE, containerd()).await;
    assert_eq!(refused.status(), StatusCode::NOT_FOUND, "it asks elsewhere");
    assert!(old.verifies(&app.get("manifests/latest").await.1));
    let other = app.upstream.put(Bytes::from_static(b"another layer"));
    let new = app.upstream.image("latest", &other);
    assert!(
        old.verifies(&app.get("manifests/latest").await.1),
        "the last known at once"
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(
        new.verifies(&app.get("manifests/latest").await.1),
        "the next pull has what the registry said in the end"
    );
}

#[tokio::test]
async fn one_clients_credentials_say_nothing_of_others() {
    let app = app();
    let layer = app.upstream.put(layer());
    let manifest = app.upstream.image("1", &layer);
    let by_digest = format!("manifests/{manifest}");
    assert_eq!(app.get(&by_digest).await.0, StatusCode::OK, "kept");
    app.refuse(Some(turned_away));
    let known = app.ask("manifests/1", HERE, known()).await;
    assert_eq!(known.status(), StatusCode::OK);
    let unknown = app.ask("manifests/1", HERE, HeaderMap::new()).await;
    assert_eq!(unknown.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_range_of_no_byte_is_out_of_range() {
    let app = app();
    let digest = app.upstream.put(layer());
    let none = app
        .ask(&format!("blobs/{digest}"), HERE, range("bytes=-0"))
        .await;
    assert_eq!(none.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(app.asked(), 0);
}

#[tokio::test]
async fn a_list_that_is_denied_is_not_called_empty() {
    let app = app();
    app.refuse(Some(|origin| UpstreamError::Denied {
        origin,
        challenges: Vec::new(),
    }));
    let request = http::Request::get("/v2/quay.io/a/b/tags/list");
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let addresses = ConnectionAddresses {
        remote: HERE,
        local: HERE,
    };
    let denied = app.mirror.answer(&head, addresses).await;
    assert_eq!(denied.status(), StatusCode::BAD_GATEWAY);
}

/// A search without an end.
#[derive(Default)]
struct Hangs(Mutex<Vec<mpsc::Sender<Candidate>>>);

#[async_trait]
impl Router for Hangs {
    fn find(&self, _: &Key) -> Search {
        let (found, search) = Search::channel();
        self.0.lock().push(found);
        search
    }

    async fn announce(&self, _: Vec<Key>) {}

    async fn withdraw(&self, _: Vec<Key>) {}

    fn health(&self) -> Health {
        Health::Ready
    }
}

#[tokio::test(start_paused = true)]
async fn all_objects_of_an_image_wait_for_peers_within_one_budget() {
    let app = app_by(Arc::new(Hangs::default()), 100 << 20, None);
    let budget = Duration::from_secs(2);
    let began = Instant::now();
    for number in 0..10 {
        let layer = app.upstream.put(format!("layer {number}").into());
        let manifest = app.upstream.image(&format!("v{number}"), &layer);
        for path in [format!("manifests/{manifest}"), format!("blobs/{layer}")] {
            assert_eq!(app.get(&path).await.0, StatusCode::OK, "{path}");
        }
    }
    let took = began.elapsed();
    assert!(took < budget + Duration::from_millis(100), "{took:?}");

    // If the registry is unreachable, peers are the only sources.
    *app.upstream.gone.lock() = true;
    let began = Instant::now();
    let ask = async |text: &str| {
        let path = format!("blobs/{}", Digest::sha256(text.as_bytes()));
        assert_eq!(app.get(&path).await.0, StatusCode::NOT_FOUND);
        began.elapsed()
    };
    let second = Duration::from_secs(1);
    assert!(ask("first").await < second, "nobody knows yet");
    assert!(ask("second").await >= second, "peers are asked");
}

/// A peer that answers any request with these bytes, and the number of its requests.
async fn liar(bytes: Bytes) -> (Candidate, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let asked = Arc::<AtomicUsize>::default();
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            count.fetch_add(1, Ordering::Relaxed);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len());
            let answer = [head.as_bytes(), &bytes].concat();
            let _ = stream.write_all(&answer).await;
        }
    });
    let liar = Candidate {
        peer: PeerId::new("liar"),
        addresses: Arc::new([address]),
    };
    (liar, asked)
}

#[tokio::test]
async fn a_layer_that_peers_sent_wrong_comes_from_upstream_next() {
    let (liar, asked) = liar(layer().iter().map(|byte| !byte).collect()).await;
    let (cluster, digest) = (MemoryCluster::default(), Digest::sha256(&layer()));
    let key = Key::Digest(digest.clone());
    cluster.router(liar).announce(vec![key]).await;
    let here = Candidate {
        peer: PeerId::new("here"),
        addresses: Arc::new([HERE]),
    };
    let app = app_by(Arc::new(cluster.router(here)), 100 << 20, None);
    app.upstream.put(layer());
    app.stored_after_retry(&digest).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "it is asked once");
}
