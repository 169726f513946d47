//! What registries answer, right and wrong.

use std::time::Duration;

use super::server::{cut, endless};
use super::*;
use crate::Limits;
use crate::registries::PARALLEL_REQUESTS;

#[tokio::test]
async fn redirects_come_to_an_end() {
    let server =
        Server::start(|_: &Seen| Some(response(302, &[("location", "/v2/round")], ""))).await;
    let fault = registries(&server, Options::default())
        .manifest(&origin(&server), &tag())
        .await
        .expect_err("no end");
    assert!(matches!(fault, UpstreamError::Protocol(..)), "{fault}");
    assert_eq!(server.seen().len(), 6);
}

#[tokio::test]
async fn manifests_are_what_they_are_said_to_be() {
    let other = Digest::sha256(b"other").to_string();
    let server = Server::start(move |seen: &Seen| {
        let encoded = [("content-encoding", "gzip")];
        Some(match seen.target.rsplit_once('/').expect("a path").1 {
            "lies" => response(200, &[("docker-content-digest", &other)], MANIFEST),
            "garbled" => response(200, &[("docker-content-digest", "sha256:x")], MANIFEST),
            "silent" => response(200, &[], MANIFEST),
            "encoded" => response(200, &encoded, MANIFEST),
            _ => response(200, &[], "something else"),
        })
    })
    .await;
    let (registries, origin) = (registries(&server, Options::default()), origin(&server));
    for reference in [
        "lies",
        "garbled",
        "encoded",
        Digest::sha256(MANIFEST).as_str(),
    ] {
        let reference = reference.parse().expect("a reference");
        let fault = registries
            .manifest(&origin, &reference)
            .await
            .expect_err("wrong");
        assert!(
            matches!(fault, UpstreamError::Protocol(..)),
            "{reference}: {fault}"
        );
    }
    let silent = registries
        .manifest(&origin, &"silent".parse().expect("a tag"))
        .await;
    assert_eq!(silent.expect("right").digest, Digest::sha256(MANIFEST));
}

#[tokio::test]
async fn large_manifests_are_refused_announced_or_not() {
    let large = vec![b' '; usize::try_from(oci::MAX_MANIFEST_SIZE).expect("small") + 1];
    let large = Bytes::from(large);
    let server = Server::start(move |seen: &Seen| {
        Some(if seen.target.ends_with("v1") {
            response(200, &[], large.clone())
        } else {
            endless(&[], Bytes::from_static(&[b' '; 64 * 1024]), 65)
        })
    })
    .await;
    let (registries, origin) = (registries(&server, Options::default()), origin(&server));
    for reference in [tag(), by_digest(b"x")] {
        let fault = registries
            .manifest(&origin, &reference)
            .await
            .expect_err("large");
        assert!(matches!(fault, UpstreamError::Protocol(..)), "{fault}");
    }
}

#[tokio::test]
async fn tags_resolve_by_head_or_else_by_get() {
    let server = Server::start(|seen: &Seen| {
        Some(
            match (
                seen.method.as_str(),
                seen.target.rsplit_once('/').expect("a path").1,
            ) {
                ("HEAD", "unknown") => response(405, &[], ""),
                ("HEAD", "silent") => response(200, &[], ""),
                (_, "gone") => response(404, &[], ""),
                _ => manifest_answer(),
            },
        )
    })
    .await;
    let (registries, origin) = (registries(&server, Options::default()), origin(&server));
    let resolve = async |text: &str| {
        registries
            .resolve(&origin, &text.parse().expect("a tag"))
            .await
    };
    let digest = Digest::sha256(MANIFEST);
    for tag in ["plain", "unknown", "silent"] {
        assert_eq!(resolve(tag).await.expect("there"), digest, "{tag}");
    }
    let methods: Vec<_> = server.seen().into_iter().map(|s| s.method).collect();
    assert_eq!(methods, ["HEAD", "HEAD", "GET", "HEAD", "GET"]);
    assert!(matches!(
        resolve("gone").await,
        Err(UpstreamError::NotFound(_))
    ));
    let wrong = registries.resolve(&origin, &by_digest(b"other")).await;
    assert!(matches!(wrong, Err(UpstreamError::Protocol(..))));
}

#[tokio::test]
async fn each_status_has_its_meaning() {
    let server = Server::start(|seen: &Seen| {
        let status = seen.target.rsplit_once('/').expect("a path").1;
        Some(response(status.parse().expect("a status"), &[], ""))
    })
    .await;
    let (registries, origin) = (registries(&server, Options::default()), origin(&server));
    for status in [
        "400", "401", "403", "404", "410", "416", "429", "500", "503", "204",
    ] {
        let reference = status.parse().expect("a tag");
        let fault = registries
            .manifest(&origin, &reference)
            .await
            .expect_err("no answer");
        let is_right = match status {
            "401" | "403" => matches!(fault, UpstreamError::Denied(_)),
            "404" => matches!(fault, UpstreamError::NotFound(_)),
            "429" => matches!(fault, UpstreamError::TooManyRequests(_)),
            "500" | "503" => matches!(fault, UpstreamError::Unreachable(..)),
            _ => matches!(fault, UpstreamError::Protocol(..)),
        };
        assert!(is_right, "{status}: {fault}");
    }
    drop(server);
    let fault = registries
        .manifest(&origin, &tag())
        .await
        .expect_err("nobody there");
    assert!(matches!(fault, UpstreamError::Unreachable(..)), "{fault}");
}

/// A blob of ten bytes under several roofs.
async fn blob_registry() -> Server {
    Server::start(|seen: &Seen| {
        let ranged = seen.header("range") == Some("bytes=4-");
        let range = |text| response(206, &[("content-range", text)], "456789");
        Some(match (seen.target.split('/').nth(2), ranged) {
            (Some("plain"), true) => range("bytes 4-9/10"),
            (Some("unsized"), true) => range("bytes 4-9/*"),
            (Some("shifted"), true) => range("bytes 3-8/10"),
            (Some("senseless"), true) => range("bytes 9-4/10"),
            (Some("short"), true) => range("bytes 4-9/20"),
            (Some("long"), true) => range("bytes 4-7/8"),
            (Some("tiny"), _) => response(200, &[], "012"),
            (Some("cut"), _) => cut(20, Bytes::from_static(b"0123456789")),
            _ => response(200, &[], "0123456789"),
        })
    })
    .await
}

#[tokio::test]
async fn blobs_come_from_the_offset_on() {
    let server = blob_registry().await;
    let registries = registries(&server, Options::default());
    let digest = Digest::sha256(b"0123456789");
    for (repository, offset, expected) in [
        ("plain", 0, Some("0123456789")),
        ("plain", 4, Some("456789")),
        ("unsized", 4, Some("456789")),
        ("ignoring", 4, Some("456789")),
        ("ignoring", 10, Some("")),
        ("shifted", 4, None),
        ("senseless", 4, None),
        ("short", 4, None),
        ("long", 4, None),
        ("tiny", 4, None),
        ("cut", 0, None),
    ] {
        let origin = Origin {
            repository: repository.parse().expect("a repository"),
            ..origin(&server)
        };
        let got = match registries.blob(&origin, &digest, offset).await {
            Ok(blob) => {
                let size = blob.size;
                let bytes = read(blob).await;
                assert!(bytes.is_err() || size == Some(10), "{repository}");
                bytes.ok()
            }
            Err(_) => None,
        };
        assert_eq!(
            got.as_deref(),
            expected.map(str::as_bytes),
            "{repository} {offset}"
        );
    }
}

#[tokio::test]
async fn silence_ends() {
    let server = Server::start(|seen: &Seen| {
        let headers = [("content-length", "100")];
        let is_blob = seen.target.contains("blobs");
        is_blob.then(|| endless(&headers, Bytes::from_static(b"0123456789"), 1))
    })
    .await;
    let with = |limits| {
        let options = Options {
            limits,
            ..Options::default()
        };
        registries(&server, options)
    };
    let short = Duration::from_millis(100);
    let origin = origin(&server);
    let stalling = with(Limits {
        stall: short,
        ..Limits::default()
    });
    let blob = stalling.blob(&origin, &Digest::sha256(b"x"), 0).await;
    let fault = read(blob.expect("begun")).await.expect_err("silence");
    assert!(matches!(fault, UpstreamError::Unreachable(..)), "{fault}");
    let silent = with(Limits {
        header: short,
        ..Limits::default()
    });
    let fault = silent.manifest(&origin, &tag()).await.expect_err("silence");
    assert!(matches!(fault, UpstreamError::Unreachable(..)), "{fault}");
}

#[tokio::test]
async fn requests_of_one_registry_take_turns() {
    let server = Server::start(|_: &Seen| {
        let headers = [("content-length", "100")];
        Some(endless(&headers, Bytes::from_static(b"0123456789"), 1))
    })
    .await;
    let (registries, origin) = (registries(&server, Options::default()), origin(&server));
    let digest = Digest::sha256(b"x");
    let mut blobs = Vec::new();
    for _ in 0..PARALLEL_REQUESTS {
        blobs.push(registries.blob(&origin, &digest, 0).await.expect("begun"));
    }
    let mut next = std::pin::pin!(registries.blob(&origin, &digest, 0));
    // A request that goes out would need far less; one that waits its turn waits however long this is.
    let early = tokio::time::timeout(Duration::from_millis(100), &mut next).await;
    assert!(early.is_err(), "it did not wait");
    assert_eq!(server.seen().len(), PARALLEL_REQUESTS);
    blobs.pop();
    next.await.expect("its turn");
}
