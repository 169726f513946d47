//! Wrong labels of encodings, and bodies that are encoded despite the request.

use super::*;
use crate::encoding::tests::gzip;

/// More bytes than are held to detect the form. They do not compress, so that the encoded form is as large.
fn large() -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()
    };
    std::iter::repeat_with(next)
        .take(300_000)
        .flatten()
        .collect()
}

/// A server of one blob that sends these bytes for it, with a label.
async fn labelled(label: &'static str, sent: Vec<u8>) -> Server {
    let sent = Bytes::from(sent);
    Server::start(move |seen: &Seen| {
        let headers = [("content-encoding", label)];
        Some(match seen.header("range") {
            None => response(200, &headers, sent.clone()),
            Some(_) => {
                let range = format!("bytes 4-5/{}", sent.len());
                let headers = [headers[0], ("content-range", range.as_str())];
                response(206, &headers, sent.slice(4..6))
            }
        })
    })
    .await
}

#[tokio::test]
async fn the_bytes_decide_and_not_the_label() {
    let (small, large) = (b"a config".repeat(100), large());
    let (layer, large_layer) = (gzip(&small), gzip(&large));
    for (label, object, sent) in [
        ("x-gzip", &small, small.clone()),
        ("gzip", &small, small.clone()),
        ("", &small, small.clone()),
        ("br", &small, small.clone()),
        ("gzip", &small, gzip(&small)),
        ("gzip", &layer, layer.clone()),
        ("gzip", &layer, gzip(&layer)),
        ("gzip", &large, large.clone()),
        ("gzip", &large_layer, large_layer.clone()),
        ("x-gzip", &large_layer, gzip(&large_layer)),
    ] {
        let server = labelled(label, sent).await;
        let (registries, repository) =
            (registries(&server, Options::default()), repository(&server));
        let digest = Digest::sha256(object);
        let blob = registries.blob(&repository, &digest, None).await;
        let blob = blob.expect("begun");
        let right = Some(object.len() as u64);
        assert!(blob.size.is_none() || blob.size == right, "{label}");
        let bytes = read(blob).await.expect("whole");
        assert!(bytes == *object, "{label}: {} bytes", bytes.len());
        let part = ranges("bytes=4-5");
        let blob = registries.blob(&repository, &digest, Some(&part)).await;
        let bytes = read(blob.expect("begun")).await.expect("a part");
        assert_eq!(bytes, object[4..6], "{label}");
        let size = registries.blob_size(&repository, &digest).await;
        assert!(
            matches!(size, Ok(size) if size.is_none() || size == right),
            "{label}"
        );
    }
}

/// The beginning does not show whether a layer is plain tar encoded on the way, or gzip that was not encoded.
#[tokio::test]
async fn a_wrong_guess_never_looks_whole_and_is_made_once() {
    let large = large();
    let server = labelled("gzip", gzip(&large)).await;
    let (registries, repository) = (registries(&server, Options::default()), repository(&server));
    let digest = Digest::sha256(&large);
    let blob = registries.blob(&repository, &digest, None).await;
    let fault = read(blob.expect("begun")).await.expect_err("other bytes");
    assert!(matches!(fault, UpstreamError::Protocol(..)), "{fault}");
    let blob = registries.blob(&repository, &digest, None).await;
    let bytes = read(blob.expect("begun")).await.expect("whole");
    assert!(bytes == large, "{} bytes", bytes.len());
}

#[tokio::test]
async fn what_is_neither_is_refused() {
    let server = labelled("gzip", gzip(b"other")).await;
    let registries = registries(&server, Options::default());
    let digest = Digest::sha256(b"this");
    let blob = registries.blob(&repository(&server), &digest, None).await;
    assert!(matches!(blob.err(), Some(UpstreamError::Protocol(..))));
}

#[tokio::test]
async fn documents_are_decoded_where_they_are_encoded() {
    let server = Server::start(|seen: &Seen| {
        let body = match seen.target.as_str() {
            target if target.contains("manifests") => MANIFEST,
            _ => br#"{"tags":[]}"#,
        };
        let status = if seen.method == "HEAD" { 405 } else { 200 };
        Some(response(
            status,
            &[("content-encoding", "gzip")],
            gzip(body),
        ))
    })
    .await;
    let (registries, repository) = (registries(&server, Options::default()), repository(&server));
    let by_digest = the_manifest(&registries, &repository).await;
    assert_eq!(by_digest.expect("there").bytes, MANIFEST);
    let by_tag = v1(&registries, &repository).await;
    assert_eq!(by_tag.expect("there").digest, Digest::sha256(MANIFEST));
    let tags = registries.page(&repository, &mirror::List::Tags, "").await;
    assert_eq!(tags.expect("there").bytes, r#"{"tags":[]}"#);
}
