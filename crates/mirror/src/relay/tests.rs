//! What a client gets when peers are slow, send wrong bytes, break or die. Every peer is a real socket.

mod app;
mod damage;
mod hostile;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use oci::{Digest, Origin};

use super::*;
use app::app_of;
pub use app::{Peer, app, whole};

/// An object that is too large to be verified whole, so that it is streamed.
pub fn large() -> (Bytes, Digest) {
    let bytes: Bytes = (0..3 * 1024 * 1024u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let digest = Digest::sha256(&bytes);
    (bytes, digest)
}

fn small() -> (Bytes, Digest) {
    let bytes = Bytes::from_static(b"a config, say");
    let digest = Digest::sha256(&bytes);
    (bytes, digest)
}

#[tokio::test]
async fn a_body_that_breaks_is_gone_on_with_by_another_peer() {
    let (bytes, digest) = large();
    for first in [
        Peer::Breaks(bytes.clone(), 1 << 20),
        Peer::Stalls(bytes.clone(), 1 << 20),
    ] {
        let app = app(&digest, &[first, Peer::Good(bytes.clone())]).await;
        let response = app.blob(&digest).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            response.headers()["content-length"],
            bytes.len().to_string()
        );
        assert!(whole(response).await.expect("a whole body") == bytes);
    }
}

#[tokio::test]
async fn a_range_is_gone_on_with_too() {
    let (bytes, digest) = large();
    let app = app(
        &digest,
        &[
            Peer::Breaks(bytes.clone(), 70_000),
            Peer::Good(bytes.clone()),
        ],
    )
    .await;
    let headers = HeaderMap::from_iter([(
        http::header::RANGE,
        http::HeaderValue::from_static("bytes=1000-"),
    )]);
    let response = app
        .get(&format!("/v2/lab/app/blobs/{digest}?ns=quay.io"), headers)
        .await;
    assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(
        response.headers()["content-range"],
        format!("bytes 1000-{}/{}", bytes.len() - 1, bytes.len())
    );
    assert!(whole(response).await.expect("a whole range") == bytes.slice(1000..));
}

#[tokio::test]
async fn several_ranges_come_from_a_peer_as_one_multipart_body() {
    let (bytes, digest) = large();
    let app = app(&digest, &[Peer::Good(bytes.clone())]).await;
    let ranges = http::HeaderValue::from_static("bytes=0-1,100-199,-3");
    let headers = HeaderMap::from_iter([(http::header::RANGE, ranges)]);
    let response = app
        .get(&format!("/v2/lab/app/blobs/{digest}?ns=quay.io"), headers)
        .await;
    assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
    let length: usize = response.headers()["content-length"]
        .to_str()
        .expect("ASCII")
        .parse()
        .expect("a number");
    let body = whole(response).await.expect("a whole body");
    assert_eq!(body.len(), length);
    let find = |part: &[u8]| body.windows(part.len()).any(|window| window == part);
    assert!(find(&bytes[100..200]) && find(&bytes[bytes.len() - 3..]));
    assert!(find(format!("bytes 100-199/{}", bytes.len()).as_bytes()));
}

#[tokio::test]
async fn when_nobody_can_go_on_the_body_ends_in_order_and_the_next_request_is_a_miss() {
    let (bytes, digest) = large();
    let app = app(&digest, &[Peer::Breaks(bytes.clone(), 1 << 20)]).await;
    let mut body = app.blob(&digest).await.into_body();
    let mut received = 0;
    let error = loop {
        match body.frame().await.expect("an error before the end") {
            Ok(frame) => received += frame.into_data().expect("data").len(),
            Err(error) => break error,
        }
    };
    assert_eq!(
        received,
        1 << 20,
        "what was received is handed over: {error}"
    );
    assert_eq!(app.blob(&digest).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn silent_and_lacking_peers_cost_no_pull() {
    let (bytes, digest) = large();
    for bad in [Peer::Silent, Peer::Lacks] {
        let app = app(&digest, &[bad.clone(), bad, Peer::Good(bytes.clone())]).await;
        let response = app.blob(&digest).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(whole(response).await.expect("a whole body") == bytes);
    }
}

#[tokio::test]
async fn a_peer_that_lacks_what_it_announced_is_not_asked_for_it_again() {
    let (_, digest) = large();
    let app = app(&digest, &[Peer::Lacks]).await;
    assert_eq!(app.blob(&digest).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(app.metric("peili_peer_failures_total"), 1);
    assert_eq!(app.blob(&digest).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        app.metric("peili_peer_failures_total"),
        1,
        "it was asked again"
    );
}

#[tokio::test]
async fn wrong_bytes_of_a_config_are_not_handed_over() {
    let (bytes, digest) = small();
    let wrong = Bytes::from(vec![b'x'; bytes.len()]);
    let only_liar = app(&digest, &[Peer::Lies(wrong.clone())]).await;
    assert_eq!(
        only_liar.blob(&digest).await.status(),
        StatusCode::NOT_FOUND
    );
    let both = app(&digest, &[Peer::Lies(wrong), Peer::Good(bytes.clone())]).await;
    assert_eq!(
        whole(both.blob(&digest).await).await.expect("a body"),
        bytes
    );
}

/// Bytes that were sent cannot be taken back, and those of a large layer are not verified first.
#[tokio::test]
async fn not_a_byte_of_an_object_is_taken_from_a_peer_that_tells_another_size() {
    let (bytes, digest) = large();
    let config = Digest::sha256(b"c");
    let manifest = Bytes::from(format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":1}},"layers":[{{"digest":"{digest}","size":{}}}]}}"#,
        bytes.len()
    ));
    let manifest_path = format!(
        "/v2/lab/app/manifests/{}?ns=quay.io",
        Digest::sha256(&manifest)
    );
    let path = format!("/v2/lab/app/blobs/{digest}?ns=quay.io");
    let origin: Origin = Origin {
        registry: "quay.io".parse().expect("a registry"),
        repository: "lab/app".parse().expect("a repository"),
    };
    let on_this_host = [10, 0, 0, 2];
    let shorter = Peer::Lies(bytes.slice(1..));
    let longer = Peer::Lies([bytes.clone(), Bytes::from_static(b"x")].concat().into());
    for (peers, ranges, status) in [
        (vec![shorter.clone()], None, StatusCode::NOT_FOUND),
        (vec![longer.clone()], None, StatusCode::NOT_FOUND),
        (
            vec![shorter.clone()],
            Some("bytes=5-"),
            StatusCode::NOT_FOUND,
        ),
        (
            vec![shorter, Peer::Good(bytes.clone())],
            None,
            StatusCode::OK,
        ),
        (
            vec![longer, Peer::Good(bytes.clone())],
            None,
            StatusCode::OK,
        ),
    ] {
        let app = app(&digest, &peers).await;
        // Expected before it arrives, like content from upstream.
        let asked = app.get_from(on_this_host, &manifest_path, HeaderMap::new());
        assert_eq!(asked.await.status(), StatusCode::NOT_FOUND);
        app.store.put(&origin, manifest.clone());
        let range = ranges.map(http::HeaderValue::from_static);
        let headers = range.into_iter().map(|range| (http::header::RANGE, range));
        let response = app.get_from(on_this_host, &path, headers.collect());
        let response = response.await;
        assert_eq!(response.status(), status);
        if status == StatusCode::OK {
            assert!(whole(response).await.expect("a body") == bytes);
        }
    }
}

#[tokio::test]
async fn a_manifest_is_verified_and_named_by_what_it_is() {
    let digest_of_config = Digest::sha256(b"c");
    let manifest = Bytes::from(format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{digest_of_config}","size":1}},"layers":[]}}"#
    ));
    let digest = Digest::sha256(&manifest);
    let path = format!("/v2/lab/app/manifests/{digest}?ns=quay.io");
    let good = app(&digest, &[Peer::Good(manifest.clone())]).await;
    let response = good.get(&path, HeaderMap::new()).await;
    assert_eq!(
        response.headers()["content-type"],
        "application/vnd.oci.image.manifest.v1+json"
    );
    assert_eq!(response.headers()["docker-content-digest"], digest.as_str());
    assert_eq!(whole(response).await.expect("a body"), manifest);

    let other = Bytes::from(format!("{}\n", String::from_utf8_lossy(&manifest)));
    let bad = app(&digest, &[Peer::Lies(other)]).await;
    assert_eq!(
        bad.get(&path, HeaderMap::new()).await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn by_digest_a_manifest_of_any_form_is_taken_and_by_tag_a_known_one() {
    let bytes = Bytes::from_static(b"\x1f\x8b no JSON at all");
    let digest = Digest::sha256(&bytes);
    let by_digest = app(&digest, &[Peer::Good(bytes.clone())]).await;
    let path = format!("/v2/lab/app/manifests/{digest}?ns=quay.io");
    let response = by_digest.get(&path, HeaderMap::new()).await;
    assert_eq!(
        response.headers()["content-type"],
        "application/octet-stream"
    );
    assert_eq!(whole(response).await.expect("a body"), bytes);

    let name: oci::Name = "quay.io/lab/app:1".parse().expect("a name");
    let tag = || oci::Key::Tag(name.tag_name().expect("tagged"));
    let schema_1 = Bytes::from_static(br#"{"schemaVersion":1,"fsLayers":[]}"#);
    for (bytes, status) in [(bytes, StatusCode::NOT_FOUND), (schema_1, StatusCode::OK)] {
        let by_tag = app_of(tag(), &[Peer::Good(bytes)]).await;
        let path = "/v2/lab/app/manifests/1?ns=quay.io";
        let response = by_tag.get(path, HeaderMap::new()).await;
        assert_eq!(response.status(), status);
    }
}

#[tokio::test]
async fn a_range_that_is_not_well_formed_is_told_the_size() {
    let (_, digest) = large();
    let app = app(&digest, &[Peer::Denies(600)]).await;
    let range = http::HeaderValue::from_static("bytes=5-2");
    let headers = HeaderMap::from_iter([(http::header::RANGE, range)]);
    let path = format!("/v2/lab/app/blobs/{digest}?ns=quay.io");
    let response = app.get(&path, headers).await;
    assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(response.headers()["content-range"], "bytes */600");
}

#[tokio::test]
async fn peers_that_begin_well_and_stall_end_in_a_miss() {
    let (bytes, digest) = small();
    let stalls = Peer::Stalls(bytes, 3);
    let app = app(&digest, &[stalls.clone(), stalls]).await;
    assert_eq!(app.blob(&digest).await.status(), StatusCode::NOT_FOUND);
}

/// containerd treats three consecutive bodies without a byte as a failed pull, and never asks upstream.
#[tokio::test]
async fn peers_that_answer_and_close_end_in_a_miss() {
    let (bytes, digest) = large();
    let app = app(&digest, &vec![Peer::Breaks(bytes, 0); 13]).await;
    for _ in 0..4 {
        assert_eq!(app.blob(&digest).await.status(), StatusCode::NOT_FOUND);
    }
}

/// Each peer sends a byte, which shows progress, and fails. New identities cost nothing.
#[tokio::test]
async fn the_nodes_own_pull_goes_upstream_after_two_peers_have_failed_it() {
    let (bytes, digest) = large();
    let app = app(&digest, &vec![Peer::Breaks(bytes, 1); 25]).await;
    app.ingest(&digest);
    let first = app.blob(&digest).await;
    assert_eq!(first.status(), StatusCode::OK);
    let mut body = first.into_body();
    let mut received = 0;
    while let Some(Ok(frame)) = body.frame().await {
        received += frame.into_data().map_or(0, |bytes| bytes.len());
    }
    assert_eq!(received, 2);
    let mut headers = HeaderMap::new();
    headers.insert("range", "bytes=2-".parse().expect("a value"));
    let path = format!("/v2/lab/app/blobs/{digest}?ns=quay.io");
    let next = app.get(&path, headers).await;
    assert_eq!(next.status(), StatusCode::NOT_FOUND);
    assert_eq!(app.metric("peili_bytes_total{source=\"peer\"}"), 2);
}

#[tokio::test]
async fn many_silent_peers_end_in_a_miss() {
    let (_, digest) = large();
    let app = app(&digest, &vec![Peer::Silent; 6]).await;
    assert_eq!(app.blob(&digest).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_peer_that_denies_a_range_it_was_not_asked_for_is_not_believed() {
    let (bytes, digest) = large();
    let app = app(&digest, &[Peer::Denies(7), Peer::Good(bytes.clone())]).await;
    let response = app.blob(&digest).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(whole(response).await.expect("a whole body") == bytes);
}

#[tokio::test]
async fn a_miss_is_an_answer_at_once() {
    let (_, digest) = large();
    let app = app(&digest, &[]).await;
    let response = app.blob(&digest).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let body = whole(response).await.expect("a body");
    assert!(
        body.starts_with(br#"{"errors":[{"code":"BLOB_UNKNOWN""#),
        "{body:?}"
    );
    let origin: Origin = Origin {
        registry: "quay.io".parse().expect("good"),
        repository: "lab/app".parse().expect("good"),
    };
    assert_eq!(origin.to_string(), "quay.io/lab/app");
}

#[tokio::test]
async fn an_answer_that_holds_another_range_than_asked_is_wrong() {
    let (bytes, digest) = large();
    let other_ranges = [
        (
            "",
            "HTTP/1.1 200 OK\r\ncontent-range: bytes 0-9/3145728\r\ncontent-length: 10\r\n\r\n",
        ),
        (
            "bytes=10-19",
            "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-9/3145728\r\ncontent-length: 10\r\n\r\n",
        ),
        (
            "bytes=10-19",
            "HTTP/1.1 206 Partial Content\r\ncontent-length: 10\r\n\r\n",
        ),
    ];
    for (asked, head) in other_ranges {
        let hostile = Peer::Answers(head, bytes.slice(..10));
        let app = app(&digest, &[hostile]).await;
        let mut headers = HeaderMap::new();
        if !asked.is_empty() {
            headers.insert("range", asked.parse().expect("a value"));
        }
        let path = format!("/v2/lab/app/blobs/{digest}?ns=quay.io");
        let response = app.get(&path, headers).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{head}");
        assert_eq!(app.asked().len(), 1, "it is not asked again: {head}");
        let known = app.mirror.peers.known(1);
        let error = known[0].last_error.as_ref().map(|(what, _)| what.clone());
        assert_eq!(error, Some(Fault::Wrong.to_string()), "{head}");
        assert_eq!(known[0].received, 0, "{head}");
    }
}

/// A request without content does not show how fast a peer answers.
#[tokio::test(start_paused = true)]
async fn requests_for_no_content_teach_no_latency() {
    let (_, digest) = small();
    let app = app(&digest, &[Peer::Silent]).await;
    let mut search = app.mirror.router.find(&oci::Key::Digest(digest.clone()));
    let silent = search.next().await.expect("it is announced");
    let target = crate::request::Target {
        kind: crate::request::Kind::Blob,
        origin: None,
        reference: oci::Reference::Digest(digest),
        ranges: None,
        caller: crate::request::Caller::Own,
        pull: Default::default(),
        head_only: true,
        follower: None,
    };
    let (fetcher, peers) = (&app.mirror.fetcher, &app.mirror.peers);
    let guess = peers.latency(&silent.peer);
    fetcher.accuse(&target, &silent).await;
    let test = fetcher.test_link(std::slice::from_ref(&silent), || 0).await;
    assert_eq!(test.bandwidth, None);
    assert_eq!(peers.latency(&silent.peer), guess);
}

#[tokio::test(start_paused = true)]
async fn a_test_of_the_link_ends_though_no_byte_comes() {
    let (_, digest) = small();
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 3145728\r\n\r\n";
    let app = app(&digest, &[Peer::Answers(head, Bytes::new())]).await;
    let mut search = app.mirror.router.find(&oci::Key::Digest(digest));
    let peers = [search.next().await.expect("it is announced")];
    let test = app.mirror.fetcher.test_link(&peers, || 0);
    let test = timeout(Duration::from_secs(2), test).await;
    assert_eq!(test.expect("it ends").bandwidth, None);
}
