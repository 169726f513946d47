//! Right and wrong answers of registries.

use std::time::Duration;

use super::server::endless;
use super::*;
use crate::Limits;
use crate::registries::PARALLEL_BLOBS;

#[tokio::test]
async fn redirects_come_to_an_end() {
    let server =
        Server::start(|_: &Seen| Some(response(302, &[("location", "/v2/round")], ""))).await;
    let fault = the_manifest(
        &registries(&server, Options::default()),
        &repository(&server),
    )
    .await
    .expect_err("no end");
    assert!(matches!(fault, UpstreamError::Protocol(..)), "{fault}");
    assert_eq!(server.seen().len(), 6);
}

#[tokio::test]
async fn a_tag_is_what_it_is_said_to_be() {
    let other = Digest::sha256(b"other").to_string();
    let server = Server::start(move |seen: &Seen| {
        if seen.method == "HEAD" {
            return Some(response(405, &[], ""));
        }
        let name = "docker-content-digest";
        Some(match seen.target.rsplit_once('/').expect("a path").1 {
            "lies" => response(200, &[(name, &other)], MANIFEST),
            "garbled" => response(200, &[(name, "sha256:x")], MANIFEST),
            "empty" => response(200, &[(name, "")], MANIFEST),
            "silent" => response(200, &[], MANIFEST),
            _ => response(200, &[], "something else"),
        })
    })
    .await;
    let (registries, repository) = (registries(&server, Options::default()), repository(&server));
    for good in ["garbled", "empty", "silent"] {
        let resolved = registries.resolve(&repository, &tag(good)).await;
        let resolved = resolved.expect(good);
        assert_eq!(resolved.digest, Digest::sha256(MANIFEST), "{good}");
        assert_eq!(resolved.manifest.expect("by GET").bytes, MANIFEST);
    }
    let fault = registries.resolve(&repository, &tag("lies")).await;
    let fault = fault.expect_err("another digest");
    assert!(matches!(fault, UpstreamError::Protocol(..)), "{fault}");
    let fault = the_manifest(&registries, &named(&server, "another")).await;
    let fault = fault.expect_err("other bytes");
    assert!(matches!(fault, UpstreamError::Protocol(..)), "{fault}");
}

#[tokio::test]
async fn large_manifests_are_refused_announced_or_not() {
    let large = vec![b' '; usize::try_from(oci::MAX_MANIFEST_SIZE).expect("small") + 1];
    let large = Bytes::from(large);
    let announced = Digest::sha256(b"announced");
    let path = announced.to_string();
    let server = Server::start(move |seen: &Seen| {
        Some(if seen.target.ends_with(&path) {
            response(200, &[], large.clone())
        } else {
            endless(&[], Bytes::from_static(&[b' '; 64 * 1024]), 65)
        })
    })
    .await;
    let (registries, repository) = (registries(&server, Options::default()), repository(&server));
    for digest in [announced, Digest::sha256(b"x")] {
        let fault = registries.manifest(&repository, &digest).await;
        let fault = fault.expect_err("large");
        assert!(matches!(fault, UpstreamError::Protocol(..)), "{fault}");
    }
}

#[tokio::test]
async fn a_tag_is_resolved_by_head_or_else_by_get() {
    let server = Server::start(|seen: &Seen| {
        let name = seen.target.rsplit_once('/').expect("a path").1;
        Some(match (seen.method.as_str(), name) {
            ("HEAD", "silent") => response(200, &[], ""),
            ("HEAD", "round") => response(302, &[("location", "")], ""),
            ("HEAD", "limited") => response(429, &[("retry-after", "7")], ""),
            ("HEAD", name) if name.parse::<u16>().is_ok() => {
                response(name.parse().expect("a status"), &[], "")
            }
            (_, "gone") => response(404, &[], ""),
            _ => manifest_answer(),
        })
    })
    .await;
    let (registries, repository) = (registries(&server, Options::default()), repository(&server));
    let resolve = async |text: &str| registries.resolve(&repository, &tag(text)).await;
    let digest = Digest::sha256(MANIFEST);
    let by_head = resolve("plain").await.expect("there");
    assert_eq!(
        (by_head.digest, by_head.manifest.is_none()),
        (digest.clone(), true)
    );
    for text in [
        "silent", "round", "400", "401", "403", "404", "405", "500", "501",
    ] {
        let resolved = resolve(text).await.expect(text);
        assert_eq!(resolved.digest, digest, "{text}");
        let manifest = resolved.manifest.expect("by GET");
        let media_type = manifest.media_type.expect("said");
        assert_eq!(
            (manifest.bytes, media_type.as_str()),
            (MANIFEST.into(), INDEX)
        );
    }
    assert!(matches!(
        resolve("gone").await,
        Err(UpstreamError::NotFound(_))
    ));
    let limited = resolve("limited").await.expect_err("429");
    let UpstreamError::TooManyRequests { retry_after, .. } = limited else {
        panic!("{limited}");
    };
    assert_eq!(retry_after.expect("said"), "7");
    let after = server.seen().pop().expect("a request");
    assert_eq!(
        after.method, "HEAD",
        "a registry that is overrun is not asked twice"
    );
}

#[tokio::test]
async fn a_manifest_that_only_its_tag_opens_is_had_by_its_tag() {
    let server = Server::start(|seen: &Seen| {
        Some(match seen.target.ends_with("/v1") {
            true => manifest_answer(),
            false => response(404, &[], ""),
        })
    })
    .await;
    let (registries, repository) = (registries(&server, Options::default()), repository(&server));
    let unknown = the_manifest(&registries, &repository).await;
    assert!(matches!(unknown, Err(UpstreamError::NotFound(_))));
    let manifest = v1(&registries, &repository).await.expect("by the tag");
    assert_eq!(manifest.bytes, MANIFEST);
    let other = Digest::sha256(b"other");
    let other = registries.manifest(&repository, &other).await;
    assert!(matches!(other, Err(UpstreamError::NotFound(_))));
}

#[tokio::test]
async fn each_status_has_its_meaning() {
    let server = Server::start(|seen: &Seen| {
        let status = seen.target.split('/').nth(2).expect("a repository");
        Some(response(status.parse().expect("a status"), &[], ""))
    })
    .await;
    let registries = registries(&server, Options::default());
    for status in [
        "400", "401", "403", "404", "410", "416", "429", "500", "503", "204",
    ] {
        let fault = the_manifest(&registries, &named(&server, status)).await;
        let fault = fault.expect_err("no answer");
        let is_right = match status {
            "401" | "403" => matches!(fault, UpstreamError::Denied { .. }),
            "404" => matches!(fault, UpstreamError::NotFound(_)),
            "429" => matches!(fault, UpstreamError::TooManyRequests { .. }),
            "500" | "503" => matches!(fault, UpstreamError::Failed(..)),
            _ => matches!(fault, UpstreamError::Protocol(..)),
        };
        assert!(is_right, "{status}: {fault}");
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
    let repository = repository(&server);
    let stalling = with(Limits {
        stall: short,
        ..Limits::default()
    });
    let blob = stalling
        .blob(&repository, &Digest::sha256(b"x"), None)
        .await;
    let fault = read(blob.expect("begun")).await.expect_err("silence");
    assert!(matches!(fault, UpstreamError::Failed(..)), "{fault}");
    let silent = with(Limits {
        header: short,
        ..Limits::default()
    });
    let fault = the_manifest(&silent, &repository)
        .await
        .expect_err("silence");
    assert!(matches!(fault, UpstreamError::Failed(..)), "{fault}");
}

#[tokio::test]
async fn requests_of_one_registry_take_turns() {
    let server = Server::start(|_: &Seen| {
        let headers = [("content-length", "100")];
        Some(endless(&headers, Bytes::from_static(b"0123456789"), 1))
    })
    .await;
    let (registries, repository) = (registries(&server, Options::default()), repository(&server));
    let digest = Digest::sha256(b"x");
    let mut blobs = Vec::new();
    for _ in 0..PARALLEL_BLOBS {
        let blob = registries.blob(&repository, &digest, None).await;
        blobs.push(blob.expect("begun"));
    }
    let mut next = std::pin::pin!(registries.blob(&repository, &digest, None));
    // A request that is sent would need far less; one that waits for its permit waits however long this is.
    let early = tokio::time::timeout(Duration::from_millis(100), &mut next).await;
    assert!(early.is_err(), "it did not wait");
    assert_eq!(server.seen().len(), PARALLEL_BLOBS);
    blobs.pop();
    next.await.expect("its permit");
}
