//! Requests for `tags/list` and referrers.

use mirror::List;

use super::*;

#[tokio::test]
async fn a_page_comes_with_what_leads_to_the_next() {
    let server = Server::start(|seen: &Seen| {
        Some(match seen.target.as_str() {
            "/v2/team/app/tags/list?n=2&last=a%2Bb" => {
                let link = r#"<http://elsewhere/v2/team/app/tags/list?n=2&last=c>; rel="next""#;
                let headers = [("link", link), ("content-type", "application/json")];
                response(200, &headers, r#"{"tags":["b","c"]}"#)
            }
            target if target.contains("/referrers/") && target.ends_with("?artifactType=a/b") => {
                let headers = [
                    ("oci-filters-applied", "artifactType"),
                    ("content-type", ""),
                ];
                response(200, &headers, r#"{"manifests":[]}"#)
            }
            _ => response(404, &[], ""),
        })
    })
    .await;
    let (registries, repository) = (registries(&server, Options::default()), repository(&server));
    let tags = registries.page(&repository, &List::Tags, "n=2&last=a%2Bb");
    let tags = tags.await.expect("there");
    assert_eq!(tags.bytes, r#"{"tags":["b","c"]}"#);
    assert_eq!(tags.next.as_deref(), Some("n=2&last=c"));
    assert_eq!(tags.content_type.expect("said"), "application/json");
    assert_eq!(tags.filters_applied, None);

    let of = List::Referrers(Digest::sha256(b"subject"));
    let referrers = registries.page(&repository, &of, "artifactType=a/b");
    let referrers = referrers.await.expect("there");
    assert_eq!(referrers.filters_applied.expect("said"), "artifactType");
    assert_eq!((referrers.next, referrers.content_type), (None, None));
    let accepted = server.seen().pop().expect("a request");
    assert!(
        accepted
            .header("accept")
            .is_some_and(|accept| accept.starts_with(INDEX))
    );

    let none = registries.page(&repository, &List::Tags, "").await;
    assert!(matches!(none, Err(UpstreamError::NotFound(_))));
}

#[tokio::test]
async fn a_page_has_a_limit() {
    let large = vec![b' '; usize::try_from(oci::MAX_MANIFEST_SIZE).expect("small") + 1];
    let large = Bytes::from(large);
    let server = Server::start(move |_: &Seen| Some(response(200, &[], large.clone()))).await;
    let registries = registries(&server, Options::default());
    let page = registries.page(&repository(&server), &List::Tags, "").await;
    assert!(matches!(page, Err(UpstreamError::Protocol(..))));
}
