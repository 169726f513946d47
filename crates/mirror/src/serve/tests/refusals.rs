//! Answers to bad requests.

use super::*;

/// Apart from DNS rebinding (see `request::host`), this distinguishes a page from a client.
#[tokio::test]
async fn a_web_page_gets_nothing() {
    let app = app().await;
    let blob = format!("/v2/a/b/blobs/{}?ns=quay.io", app.blob);
    for path in [&blob, "/v2/", "/readyz", "/no-such-page"] {
        for header in [
            "origin: http://evil.example\r\n",
            "origin: null\r\n",
            "sec-fetch-site: cross-site\r\n",
        ] {
            let answer = app.get(path, header).await;
            assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
            assert!(answer.contains("\"DENIED\""), "{answer}");
            assert!(!answer.contains("0123456789"), "{answer}");
        }
    }
    let by_user = app.get(&blob, "sec-fetch-site: none\r\n").await;
    assert!(by_user.starts_with("HTTP/1.1 200"), "{by_user}");
}

#[tokio::test]
async fn bad_input_gets_a_clear_answer() {
    let app = app().await;
    let long = format!("/v2/{}/blobs/x", "a".repeat(1 << 20));
    let blob = format!("/v2/a/b/blobs/{}?ns=quay.io", app.blob);
    let table = [
        (
            "400",
            "DIGEST_INVALID",
            app.get("/v2/a/b/blobs/sha256:123?ns=q.io", "").await,
        ),
        (
            "400",
            "NAME_INVALID",
            app.get("/v2/A/manifests/x?ns=q.io", "").await,
        ),
        (
            "404",
            "MANIFEST_UNKNOWN",
            app.get("/v2/a/manifests/.x?ns=q.io", "").await,
        ),
        (
            "400",
            "NAME_INVALID",
            app.get("/v2/a/manifests/%ff?ns=q.io", "").await,
        ),
        (
            "404",
            "BLOB_UNKNOWN",
            app.get(&format!("/v2/a/b/blobs/{}?ns=quay.io", Digest::sha256(b"x")), "")
                .await,
        ),
        (
            "400",
            "NAME_INVALID",
            app.get("/v2/a/manifests/x?ns=..%2f", "").await,
        ),
        (
            "416",
            "SIZE_INVALID",
            app.get(&blob, "range: bytes=x\r\n").await,
        ),
        (
            "400",
            "SIZE_INVALID",
            app.get(&blob, "range: bytes=0-,0-\r\n").await,
        ),
        (
            "412",
            "UNSUPPORTED",
            app.get(&blob, "if-match: \"x\"\r\n").await,
        ),
        (
            "400",
            "UNSUPPORTED",
            app.raw(
                format!("GET {blob} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}")
                    .as_bytes(),
            )
            .await,
        ),
        (
            "405",
            "UNSUPPORTED",
            app.raw(
                format!("BREW {blob} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
            )
            .await,
        ),
        (
            "405",
            "UNSUPPORTED",
            app.raw(b"DELETE /v2/a/manifests/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await,
        ),
        ("404", "UNSUPPORTED", app.get("/v2/a/tags/list", "").await),
    ];
    for (status, code, answer) in table {
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status}: {answer}"
        );
        assert!(
            answer.contains(&format!(
                "{{\"errors\":[{{\"code\":\"{code}\",\"message\":\""
            )),
            "{code}: {answer}"
        );
    }
    let too_long = app.get(&long, "").await;
    assert!(
        too_long.starts_with("HTTP/1.1 414") || too_long.starts_with("HTTP/1.1 431"),
        "{too_long}"
    );
    assert!(
        app.raw(b"\x16\x03\x01nonsense\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400")
    );
}
