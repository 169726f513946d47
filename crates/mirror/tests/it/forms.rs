//! An object that is requested as a manifest by digest is sent whatever its form, as long as it matches the digest.

use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};

use super::*;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn peers_view() -> HeaderMap {
    HeaderMap::from_iter([(MIRRORED, HeaderValue::from_static("true"))])
}

#[tokio::test]
async fn any_object_is_a_manifest_to_whoever_asks_for_it_as_one() {
    let app = app();
    let large = [b"{\"manifests\":[]}".as_slice(), &[b' '; 300_000]].concat();
    let forms: [(&[u8], &str); 7] = [
        (&large, OCI_INDEX),
        (br#"{"schemaVersion":2,"layers":null}"#, OCI_MANIFEST),
        (br#"{"schemaVersion":2,"manifests":null}"#, OCI_INDEX),
        (
            br#"{"schemaVersion":1,"fsLayers":[],"signatures":[]}"#,
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
        ),
        (br#"{"mediaType":"a/b","mediaType":"c/d"}"#, "c/d"),
        (
            br#"{"architecture":"amd64","config":{}}"#,
            "application/octet-stream",
        ),
        (b"\x1f\x8b no JSON at all", "application/octet-stream"),
    ];
    let digests = forms.map(|(bytes, _)| app.upstream.put(Bytes::copy_from_slice(bytes)));
    for gone in [false, true] {
        *app.upstream.gone.lock() = gone;
        for ((bytes, media_type), digest) in forms.iter().zip(&digests) {
            let path = format!("manifests/{digest}");
            let answer = app.ask(&path, HERE, HeaderMap::new()).await;
            assert_eq!(answer.headers()[CONTENT_TYPE], media_type, "{gone}");
            let (status, body) = read(answer).await;
            assert_eq!((status, &*body), (StatusCode::OK, *bytes));
            app.stored(digest).await;
            let answer = app.ask(&path, ELSEWHERE, peers_view()).await;
            assert_eq!(answer.headers()[CONTENT_TYPE], media_type, "to a peer");
            assert_eq!(read(answer).await, (StatusCode::OK, body));
        }
    }
}

#[tokio::test]
async fn a_manifest_that_was_damaged_on_disk_is_not_handed_over() {
    let app = app();
    let layer = app.upstream.put(layer());
    let manifest = app.upstream.image("1", &layer);
    let path = format!("manifests/{manifest}");
    assert_eq!(app.get(&path).await.0, StatusCode::OK);
    app.stored(&manifest).await;
    let file = app.folder.path().join("store/blobs/sha256");
    let file = file.join(manifest.encoded());
    let mut bytes = std::fs::read(&file).expect("it lies there");
    bytes[0] ^= 1;
    std::fs::write(&file, bytes).expect("it can be written");
    let answer = app.ask(&path, ELSEWHERE, peers_view()).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    let (status, bytes) = app.get(&path).await;
    assert_eq!(status, StatusCode::OK, "it comes from upstream");
    assert!(manifest.verifies(&bytes));
}

#[tokio::test]
async fn a_client_that_has_it_is_told_so() {
    let app = app();
    let layer = app.upstream.put(layer());
    let manifest = app.upstream.image("1", &layer);
    for path in [
        "manifests/1".into(),
        format!("manifests/{manifest}"),
        format!("blobs/{layer}"),
    ] {
        let headers = app
            .ask(&path, HERE, HeaderMap::new())
            .await
            .headers()
            .clone();
        let condition = HeaderMap::from_iter([(IF_NONE_MATCH, headers[ETAG].clone())]);
        let answer = app.ask(&path, HERE, condition).await;
        assert_eq!(answer.headers().get(ETAG), headers.get(ETAG));
        let (status, body) = read(answer).await;
        assert_eq!(
            (status, body.len()),
            (StatusCode::NOT_MODIFIED, 0),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_upstream_lacks_is_unknown_as_what_it_was_asked_for() {
    let app = app();
    let absent = Digest::sha256(b"absent");
    for (path, code) in [
        (format!("blobs/{absent}"), "BLOB_UNKNOWN"),
        (format!("manifests/{absent}"), "MANIFEST_UNKNOWN"),
    ] {
        let (status, body) = app.get(&path).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(
            String::from_utf8_lossy(&body).contains(code),
            "{path}: {body:?}"
        );
    }
}
