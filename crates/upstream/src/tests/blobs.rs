//! Sizes and ranges, and how upstream answers them.

use super::server::{cut, endless};
use super::*;

const BLOB: &str = "0123456789";

/// A blob of ten bytes, served in several ways.
async fn blob_registry() -> Server {
    Server::start(|seen: &Seen| {
        let range = seen
            .header("range")
            .and_then(|range| range.strip_prefix("bytes="));
        let part =
            |text: &str, body: &'static str| Some(response(206, &[("content-range", text)], body));
        match (seen.target.split('/').nth(2).expect("a repository"), range) {
            ("plain", Some("4-")) => part("bytes 4-9/10", "456789"),
            ("plain", Some("4-5")) => part("bytes 4-5/10", "45"),
            ("plain", Some("-2")) => part("bytes 8-9/10", "89"),
            ("plain", Some(_)) => Some(response(416, &[("content-range", "bytes */10")], "")),
            ("unsized", Some("4-")) => part("bytes 4-9/*", "456789"),
            ("shifted", Some("4-")) => part("bytes 3-8/10", "345678"),
            ("senseless", Some(_)) => part("bytes 9-4/10", "456789"),
            ("unsaid", Some(_)) => Some(response(206, &[], "456789")),
            ("short", Some("4-")) => part("bytes 4-9/20", "456789"),
            ("tiny", _) => Some(response(200, &[], "012")),
            ("cut", _) => Some(cut(20, Bytes::from_static(BLOB.as_bytes()))),
            ("chunked", _) if seen.method == "HEAD" => {
                Some(response(200, &[("content-length", "10")], ""))
            }
            ("chunked", _) => Some(server::chunked(&[b"01234", b"56789"])),
            _ => Some(response(200, &[], BLOB)),
        }
    })
    .await
}

#[tokio::test]
async fn a_blob_comes_as_a_whole_or_in_part() {
    let server = blob_registry().await;
    let registries = registries(&server, Options::default());
    let digest = Digest::sha256(BLOB.as_bytes());
    for (name, header, expected) in [
        ("plain", "", Some((Some(10), 0, BLOB))),
        ("plain", "bytes=4-", Some((Some(10), 4, "456789"))),
        ("plain", "bytes=4-5, 7-", Some((Some(10), 4, "45"))),
        ("plain", "bytes=-2", Some((Some(10), 8, "89"))),
        ("unsized", "bytes=4-", Some((Some(10), 4, "456789"))),
        ("ignoring", "bytes=4-", Some((Some(10), 4, "456789"))),
        ("ignoring", "bytes=4-5", Some((Some(10), 4, "45"))),
        ("ignoring", "bytes=-2", Some((Some(10), 8, "89"))),
        ("chunked", "", Some((None, 0, BLOB))),
        ("chunked", "bytes=4-", Some((None, 4, "456789"))),
        ("chunked", "bytes=3-6", Some((None, 3, "3456"))),
        ("chunked", "bytes=-2", Some((Some(10), 8, "89"))),
        ("chunked", "bytes=20-", None),
        ("shifted", "bytes=4-", None),
        ("senseless", "bytes=4-", None),
        ("unsaid", "bytes=4-", None),
        ("short", "bytes=4-", None),
        ("tiny", "bytes=4-", None),
        ("cut", "", None),
    ] {
        let ranges = (!header.is_empty()).then(|| ranges(header));
        let repository = named(&server, name);
        let got = registries.blob(&repository, &digest, ranges.as_ref()).await;
        let got = match got {
            Ok(blob) => {
                let place = (blob.size, blob.offset);
                read(blob).await.ok().map(|bytes| (place, bytes))
            }
            Err(_) => None,
        };
        let expected = expected.map(|(size, offset, text)| ((size, offset), Bytes::from(text)));
        assert_eq!(got, expected, "{name} {header}");
    }
}

#[tokio::test]
async fn a_range_outside_the_blob_is_told_with_its_size() {
    let server = blob_registry().await;
    let registries = registries(&server, Options::default());
    let digest = Digest::sha256(BLOB.as_bytes());
    for name in ["plain", "ignoring"] {
        let repository = named(&server, name);
        let outside = ranges("bytes=10-");
        let got = registries.blob(&repository, &digest, Some(&outside)).await;
        let fault = got.err().expect("outside");
        let UpstreamError::Unsatisfiable { size, .. } = fault else {
            panic!("{name}: {fault}");
        };
        assert_eq!(size, Some(10), "{name}");
    }
}

#[tokio::test]
async fn a_part_ends_although_upstream_sends_on() {
    let server = Server::start(|_: &Seen| {
        let headers = [("content-length", "1000")];
        Some(endless(&headers, Bytes::from_static(BLOB.as_bytes()), 1))
    })
    .await;
    let registries = registries(&server, Options::default());
    let digest = Digest::sha256(b"x");
    let part = ranges("bytes=2-7");
    let blob = registries
        .blob(&repository(&server), &digest, Some(&part))
        .await;
    let blob = blob.expect("begun");
    assert_eq!((blob.size, blob.offset), (Some(1000), 2));
    assert_eq!(read(blob).await.expect("a part"), "234567");
}

#[tokio::test]
async fn the_size_is_found_by_head_or_else_by_the_first_byte() {
    let server = Server::start(|seen: &Seen| {
        let is_head = seen.method == "HEAD";
        let first = |size: &str| {
            assert_eq!(seen.header("range"), Some("bytes=0-0"));
            let range = format!("bytes 0-0/{size}");
            Some(response(206, &[("content-range", &range)], "0"))
        };
        match seen.target.split('/').nth(2).expect("a repository") {
            "plain" => Some(response(200, &[("content-length", "10")], "")),
            "refusing" if is_head => Some(response(403, &[], "")),
            "refusing" => first("11"),
            "silent" if is_head => Some(server::chunked(&[])),
            "silent" => first("12"),
            "ignoring" if is_head => Some(response(404, &[], "")),
            "ignoring" => Some(response(200, &[], BLOB)),
            "empty" if is_head => Some(response(405, &[], "")),
            "empty" => Some(response(416, &[("content-range", "bytes */0")], "")),
            "unknown" if is_head => Some(server::chunked(&[])),
            "unknown" => first("*"),
            "limited" => Some(response(429, &[], "")),
            _ => Some(response(404, &[], "")),
        }
    })
    .await;
    let registries = registries(&server, Options::default());
    let digest = Digest::sha256(b"x");
    for (name, expected) in [
        ("plain", Some(10)),
        ("refusing", Some(11)),
        ("silent", Some(12)),
        ("ignoring", Some(10)),
        ("empty", Some(0)),
        ("unknown", None),
    ] {
        let size = registries.blob_size(&named(&server, name), &digest).await;
        assert_eq!(size.expect(name), expected, "{name}");
    }
    let gone = registries.blob_size(&named(&server, "gone"), &digest).await;
    assert!(matches!(gone, Err(UpstreamError::NotFound(_))));
    let limited = registries
        .blob_size(&named(&server, "limited"), &digest)
        .await;
    assert!(matches!(
        limited,
        Err(UpstreamError::TooManyRequests { .. })
    ));
}
