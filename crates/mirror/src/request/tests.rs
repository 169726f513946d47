use http::HeaderValue;
use http::header::IF_RANGE;
use proptest::prelude::*;

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn read(uri: &str) -> Result<Request, RequestError> {
    Reader::default().read(
        &Method::GET,
        &uri.parse().expect("a URI"),
        &HeaderMap::new(),
    )
}

fn target(request: Result<Request, RequestError>) -> Target {
    match request {
        Ok(Request::Content(target)) => target,
        other => panic!("not a request for content: {other:?}"),
    }
}

fn origin(uri: &str) -> String {
    target(read(uri))
        .origin
        .map_or("none".into(), |o| o.to_string())
}

#[test]
fn the_registry_stands_in_the_query_in_a_header_or_in_the_name() {
    let blob = format!("blobs/{DIGEST}");
    assert_eq!(origin(&format!("/v2/a/b/{blob}?ns=quay.io")), "quay.io/a/b");
    assert_eq!(
        origin(&format!("/v2/a/b/{blob}?x=1&ns=10.0.0.1%3A5000")),
        "10.0.0.1:5000/a/b"
    );
    assert_eq!(origin(&format!("/v2/quay.io/a/b/{blob}")), "quay.io/a/b");
    assert_eq!(origin(&format!("/v2/localhost/a/{blob}")), "localhost/a");
    assert_eq!(origin(&format!("/v2/a/b/{blob}")), "none");
    assert_eq!(
        origin(&format!("/v2/quay.io/a/{blob}?ns=ghcr.io")),
        "ghcr.io/quay.io/a"
    );

    let mut headers = HeaderMap::new();
    headers.insert(NAMESPACE, HeaderValue::from_static("ghcr.io"));
    let uri = format!("/v2/a/{blob}").parse().expect("a URI");
    let request = Reader::default().read(&Method::GET, &uri, &headers);
    assert_eq!(
        target(request).origin.expect("a registry").to_string(),
        "ghcr.io/a"
    );
}

#[test]
fn a_default_registry_is_for_names_without_one() {
    let reader = Reader {
        default_registry: "docker.io".parse().ok(),
    };
    let read = |uri: &str| {
        reader.read(
            &Method::GET,
            &uri.parse().expect("a URI"),
            &HeaderMap::new(),
        )
    };
    let name = |uri| target(read(uri)).tag_name().expect("a tag").to_string();
    assert_eq!(
        name("/v2/library/nginx/manifests/1"),
        "docker.io/library/nginx:1"
    );
    assert_eq!(name("/v2/quay.io/a/manifests/1"), "quay.io/a:1");
}

#[test]
fn a_repository_may_have_parts_called_as_the_endpoints_are() {
    let target = target(read(&format!(
        "/v2/blobs/manifests/x/blobs/{DIGEST}?ns=q.io"
    )));
    assert_eq!(
        target.origin.expect("named").repository.as_str(),
        "blobs/manifests/x"
    );
    assert_eq!(target.kind, Kind::Blob);
}

#[test]
fn other_pages() {
    assert!(matches!(read("/v2/"), Ok(Request::Base)));
    assert!(matches!(read("/v2"), Ok(Request::Base)));
    assert!(matches!(read("/readyz"), Ok(Request::Ready)));
    assert!(matches!(read("/livez"), Ok(Request::Live)));
    for uri in [
        "/",
        "/v1/",
        "/v2/a",
        "/v2/_catalog",
        "/v2/tags/list",
        "/v2/a/tags/others",
        "/v3/a/blobs/x",
    ] {
        assert_eq!(read(uri).err(), Some(RequestError::UnknownPath), "{uri}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    use RequestError as E;
    assert_eq!(
        read("/v2/a/manifests/latest").err(),
        Some(E::TagWithoutRegistry)
    );
    assert_eq!(read("/v2/a/blobs/latest?ns=q.io").err(), Some(E::BlobByTag));
    for uri in [
        "/v2/a/manifests/sha256:12?ns=q.io",
        "/v2/a/blobs/sha256:12?ns=q.io",
        "/v2/a/referrers/x?ns=q.io",
        "/v2/A/tags/list?ns=q.io",
        "/v2/a/manifests/.x?ns=q.io",
        "/v2/a/manifests/?ns=q.io",
        "/v2/a/manifests/x%ZZ?ns=q.io",
        "/v2/a/manifests/x%252Fy?ns=q.io",
        "/v2/a/manifests/x%00?ns=q.io",
        "/v2/a%/manifests/x?ns=q.io",
        "/v2/A/manifests/x?ns=q.io",
        "/v2/a/../b/manifests/x?ns=q.io",
        "/v2/a%2F..%2Fb/manifests/x?ns=q.io",
        "/v2//manifests/x?ns=q.io",
        "/v2/a/manifests/x?ns=q.io%2F..",
        "/v2/a/manifests/x?ns=%ff",
        "/v2/a/manifests/x?ns=a%00b",
    ] {
        assert!(matches!(read(uri), Err(E::Name(_))), "{uri}");
    }
    let long = format!("/v2/{}/manifests/x", "a".repeat(5000));
    assert_eq!(read(&long).err(), Some(E::UriTooLong));

    let uri: Uri = format!("/v2/a/blobs/{DIGEST}").parse().expect("a URI");
    let with = |name: HeaderName, value: &'static str| {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    };
    let read = |method, headers| Reader::default().read(&method, &uri, &headers).err();
    assert_eq!(
        read(Method::PUT, HeaderMap::new()),
        Some(E::Method(Method::PUT))
    );
    assert_eq!(read(Method::GET, with(CONTENT_LENGTH, "3")), Some(E::Body));
    assert_eq!(
        read(Method::GET, with(TRANSFER_ENCODING, "chunked")),
        Some(E::Body)
    );
    let many = format!("bytes={}", "0-0,".repeat(oci::MAX_RANGES + 1));
    let many = || HeaderMap::from_iter([(RANGE, HeaderValue::from_str(&many).expect("a header"))]);
    assert_eq!(
        read(Method::GET, many()),
        Some(E::Range(RangeError::TooMany))
    );
    assert_eq!(read(Method::HEAD, many()), None, "a HEAD has no range");
}

#[test]
fn a_range_is_for_the_object_that_if_range_names() {
    let uri: Uri = format!("/v2/a/blobs/{DIGEST}").parse().expect("a URI");
    let ranges = |lines: &[(HeaderName, &str)]| {
        let line = |(name, value): &(HeaderName, &str)| {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header");
            (name.clone(), value)
        };
        let headers = lines.iter().map(line).collect();
        target(Reader::default().read(&Method::GET, &uri, &headers)).ranges
    };
    let range = (RANGE, "bytes=1-2");
    let one = Ranges::parse(range.1).expect("well-formed");
    assert_eq!(ranges(std::slice::from_ref(&range)), one);
    let same = format!("\"{DIGEST}\"");
    assert_eq!(ranges(&[range.clone(), (IF_RANGE, &same)]), one);
    assert_eq!(ranges(&[range, (IF_RANGE, "\"another\"")]), None);
    for outside in ["bytes=2-1", "bytes=\u{e9}"] {
        assert_eq!(ranges(&[(RANGE, outside)]), Some(Ranges::outside()));
    }
    assert_eq!(ranges(&[(RANGE, "lines=2-1")]), None);
}

#[test]
fn lists() {
    let list = |uri: &str| match read(uri) {
        Ok(Request::List {
            origin,
            list,
            query,
        }) => (origin.map(|o| o.to_string()), list, query),
        other => panic!("not a list: {other:?}"),
    };
    assert_eq!(
        list("/v2/a/b/tags/list?n=2&ns=q.io&last=x%20y"),
        (Some("q.io/a/b".into()), List::Tags, "n=2&last=x%20y".into())
    );
    assert_eq!(
        list("/v2/q.io/a/blobs/tags/list"),
        (Some("q.io/a/blobs".into()), List::Tags, String::new())
    );
    assert_eq!(list("/v2/a/tags/list").0, None);
    let digest = DIGEST.parse().expect("a digest");
    assert_eq!(
        list(&format!("/v2/a/referrers/{DIGEST}?artifactType=a%2Fb")),
        (None, List::Referrers(digest), "artifactType=a%2Fb".into())
    );
}

#[test]
fn percent_encoding_makes_no_difference() {
    let digest = DIGEST.replace(':', "%3A");
    for uri in [
        format!("/v2/a/b/blobs/{digest}?ns=q.io"),
        format!("/v2/a%2Fb/blobs/{DIGEST}?ns=q.io"),
        format!("/v2/%61/b%2fblobs%2F{digest}?ns=q.io"),
        format!("/%76%32/q%2Eio/a/b/blobs/{DIGEST}"),
    ] {
        let target = target(read(&uri));
        assert_eq!(target.origin.expect("named").to_string(), "q.io/a/b");
        assert_eq!(target.reference.to_string(), DIGEST, "{uri}");
    }
    assert!(matches!(read("/%72eadyz"), Ok(Request::Ready)));
    assert_eq!(
        read("/v2/a/manifests/%ff?ns=q.io").err(),
        Some(RequestError::PathEncoding)
    );
}

#[test]
fn a_registry_with_a_port_stands_in_the_name() {
    let blob = format!("blobs/{DIGEST}");
    for (name, origin_of_it) in [
        ("10.0.0.1_5000/app", "10.0.0.1:5000/app"),
        ("10.0.0.1%3A5000/app", "10.0.0.1:5000/app"),
        ("registry.example_5000/a/b", "registry.example:5000/a/b"),
        ("localhost_5000/a", "localhost:5000/a"),
        ("kind-registry_5000/a", "kind-registry:5000/a"),
        ("registry.example_x/a", "registry.example_x/a"),
        ("team_a/app", "none"),
        ("app_5000", "none"),
    ] {
        assert_eq!(origin(&format!("/v2/{name}/{blob}")), origin_of_it);
    }
    let named = format!("/v2/10.0.0.1_5000/app/{blob}?ns=q.io");
    assert_eq!(origin(&named), "q.io/10.0.0.1_5000/app", "ns comes first");

    let reader = Reader {
        default_registry: "docker.io".parse().ok(),
    };
    for (name, origin_of_it) in [
        ("team_a/app", "docker.io/team_a/app"),
        ("app_5000", "docker.io/app_5000"),
        ("kind-registry_5000/app", "kind-registry:5000/app"),
        ("10.0.0.1_5000/app", "10.0.0.1:5000/app"),
        ("localhost_5000/app", "localhost:5000/app"),
    ] {
        let uri = format!("/v2/{name}/{blob}").parse().expect("a URI");
        let read = reader.read(&Method::GET, &uri, &HeaderMap::new());
        let origin = target(read).origin.expect("a registry");
        assert_eq!(origin.to_string(), origin_of_it);
    }
}

#[test]
fn a_connection_from_this_host_is_told_by_its_addresses() {
    let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
    assert!(is_this_host(at("127.0.0.1:9"), at("127.0.0.1:5000")));
    assert!(is_this_host(
        at("[::ffff:127.0.0.1]:9"),
        at("[::ffff:127.0.0.1]:5000")
    ));
    assert!(is_this_host(at("10.0.0.1:9"), at("[::ffff:10.0.0.1]:5000")));
    assert!(!is_this_host(at("10.0.0.2:9"), at("10.0.0.1:5000")));

    let of = |remote| ClientAddress::of(at(remote), at("[::ffff:10.0.0.1]:5000"));
    for here in [
        "127.0.0.1:9",
        "[::1]:9",
        "10.0.0.1:9",
        "[::ffff:127.0.0.1]:9",
    ] {
        assert_eq!(of(here), ClientAddress::ThisHost, "{here}");
    }
    assert_eq!(of("10.0.0.2:9"), of("[::ffff:10.0.0.2]:10"));
    assert_ne!(of("10.0.0.2:9"), of("10.0.0.3:9"));
}

proptest! {
    #[test]
    fn no_path_makes_it_panic(path in "/v2/[a-z0-9./:%_-]{0,80}", query in "[a-z=&%0-9:.]{0,40}") {
        if let Ok(uri) = format!("{path}?{query}").parse::<Uri>() {
            let _ = Reader::default().read(&Method::GET, &uri, &HeaderMap::new());
        }
    }
}
