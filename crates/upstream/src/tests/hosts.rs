//! Registries asked at the hosts that containerd would ask.

use http::{HeaderMap, HeaderName, HeaderValue};
use oci::{Reference, Registry};

use super::*;
use crate::{HostTls, RegistryHost, RegistryHosts};

/// One host for all registries.
struct OneHost(Result<RegistryHost, String>);

impl RegistryHosts for OneHost {
    fn of(&self, _: &Registry) -> Result<Option<RegistryHost>, String> {
        self.0.clone().map(Some)
    }
}

fn at(host: Result<RegistryHost, String>) -> Registries {
    let hosts = Arc::new(OneHost(host));
    let (names, proxies) = (Arc::new(FakeNames), Proxies::default());
    Registries::with_hosts(Options::default(), names, &proxies, hosts).expect("set up")
}

fn host(server: &Server) -> RegistryHost {
    RegistryHost {
        url: server.url("").parse().expect("a registry"),
        path: "/proxy/v2".into(),
        tls: HostTls::default(),
        headers: HeaderMap::new(),
    }
}

fn elsewhere() -> UpstreamRepository {
    UpstreamRepository {
        origin: oci::Origin {
            registry: "registry.example".parse().expect("a registry"),
            repository: "team/app".parse().expect("a repository"),
        },
        credentials: None,
    }
}

fn v1_reference() -> Reference {
    Reference::Tag(tag("v1"))
}

#[tokio::test]
async fn the_host_is_asked_by_its_path_and_told_the_registry() {
    let server = Server::start(|_| Some(manifest_answer())).await;
    let registries = at(Ok(host(&server)));
    let head = registries.head(&elsewhere(), &v1_reference()).await;
    let head = head.expect("there");
    assert_eq!(head.digest, Some(Digest::sha256(MANIFEST)));
    assert_eq!(head.size, Some(MANIFEST.len() as u64));
    assert_eq!(head.media_type, MediaType::new(INDEX));
    assert_eq!(head.visibility, Visibility::Shared);
    let seen = server.seen();
    assert_eq!(seen.len(), 1, "a head alone, which is no pull");
    assert_eq!(
        (seen[0].method.as_str(), seen[0].target.as_str()),
        (
            "HEAD",
            "/proxy/v2/team/app/manifests/v1?ns=registry.example"
        )
    );
}

#[tokio::test]
async fn headers_go_to_the_host_alone_and_prove_nothing_for_others() {
    let other = Server::start(|_| Some(manifest_answer())).await;
    let target = other.url("/there");
    let server =
        Server::start(move |_: &Seen| Some(response(307, &[("location", target.as_str())], "")))
            .await;
    let mut host = host(&server);
    let name = HeaderName::from_static("x-key");
    host.headers
        .insert(name, "secret".parse().expect("a header"));
    let head = at(Ok(host)).head(&elsewhere(), &v1_reference()).await;
    assert_eq!(head.expect("there").visibility, Visibility::Private);
    assert_eq!(server.seen()[0].header("x-key"), Some("secret"));
    assert_eq!(other.seen()[0].header("x-key"), None);
}

/// containerd's files name no host.
struct NoHost;

impl RegistryHosts for NoHost {
    fn of(&self, _: &Registry) -> Result<Option<RegistryHost>, String> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_registry_that_is_listed_as_http_is_called_without_tls() {
    let server = Server::start(|_| Some(manifest_answer())).await;
    let url: oci::RegistryUrl = server.url("").parse().expect("a registry");
    let repository = UpstreamRepository {
        origin: oci::Origin {
            registry: url.registry.clone(),
            ..elsewhere().origin
        },
        credentials: None,
    };
    for (listed, is_answered) in [(vec![url], true), (Vec::new(), false)] {
        let limits = crate::Limits::default();
        let registries = Registries::at_hosts(Arc::new(NoHost), listed, limits);
        let registries = registries.expect("set up");
        let head = registries.head(&repository, &v1_reference()).await;
        assert_eq!(head.is_ok(), is_answered, "{head:?}");
    }
}

#[tokio::test]
async fn certificates_are_checked_as_the_host_says() {
    let server = Server::start_tls(|_| Some(manifest_answer())).await;
    let plain = at(Ok(host(&server)));
    let error = plain.head(&elsewhere(), &v1_reference()).await;
    assert!(
        matches!(error, Err(UpstreamError::Unreachable(..))),
        "{error:?}"
    );

    let file = tempfile::NamedTempFile::new().expect("a file");
    let certificate = server.certificate.clone().expect("one");
    std::fs::write(file.path(), certificate).expect("written");
    let mut trusting = host(&server);
    trusting.tls.authorities = vec![file.path().to_owned()];
    let mut careless = host(&server);
    careless.tls.skip_verify = true;
    for host in [trusting, careless] {
        let head = at(Ok(host)).head(&elsewhere(), &v1_reference()).await;
        assert_eq!(head.expect("there").visibility, Visibility::Shared);
    }
    let mut missing = host(&server);
    missing.tls.authorities = vec!["/does/not/exist.crt".into()];
    let error = at(Ok(missing)).head(&elsewhere(), &v1_reference()).await;
    let error = error.expect_err("nobody to trust").to_string();
    assert!(error.contains("/does/not/exist.crt"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_replaced_is_read_again() {
    let server = Server::start_tls(|_| Some(manifest_answer())).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let other = Server::start_tls(|_| None).await;
    std::fs::write(file.path(), other.certificate.clone().expect("one")).expect("written");
    let mut host = host(&server);
    host.tls.authorities = vec![file.path().to_owned()];
    let registries = at(Ok(host));
    let error = registries.head(&elsewhere(), &v1_reference()).await;
    assert!(
        matches!(error, Err(UpstreamError::Unreachable(..))),
        "{error:?}"
    );
    let certificate = server.certificate.clone().expect("one") + "\n";
    std::fs::write(file.path(), certificate).expect("written");
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    let head = registries.head(&elsewhere(), &v1_reference()).await;
    head.expect("it is trusted now");
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_from_what_fails() {
    let failing = Server::start(|_| Some(response(503, &[], ""))).await;
    let error = at(Ok(host(&failing)))
        .head(&elsewhere(), &v1_reference())
        .await;
    assert!(matches!(error, Err(UpstreamError::Failed(..))), "{error:?}");
    let limiting = Server::start(|_| Some(response(429, &[], ""))).await;
    let error = at(Ok(host(&limiting)))
        .head(&elsewhere(), &v1_reference())
        .await;
    assert!(
        matches!(error, Err(UpstreamError::TooManyRequests { .. })),
        "{error:?}"
    );
    for status in [401, 403] {
        let closed = Server::start(move |_: &Seen| Some(response(status, &[], ""))).await;
        let error = at(Ok(host(&closed)))
            .head(&elsewhere(), &v1_reference())
            .await;
        assert!(
            matches!(error, Err(UpstreamError::Denied { .. })),
            "{error:?}"
        );
    }
    let gone = host(&Server::start(|_| None).await);
    let error = at(Ok(gone)).head(&elsewhere(), &v1_reference()).await;
    assert!(
        matches!(error, Err(UpstreamError::Unreachable(..))),
        "{error:?}"
    );
    let unreadable = at(Err("hosts.toml is not TOML".into()));
    let error = unreadable.head(&elsewhere(), &v1_reference()).await;
    assert!(
        matches!(error, Err(UpstreamError::Unreachable(..))),
        "{error:?}"
    );
}

#[tokio::test]
async fn another_digest_than_was_asked_for_is_no_answer() {
    let server = Server::start(|_| Some(manifest_answer())).await;
    let reference = Reference::Digest(Digest::sha256(b"another"));
    let error = at(Ok(host(&server))).head(&elsewhere(), &reference).await;
    assert!(
        matches!(error, Err(UpstreamError::Protocol(..))),
        "{error:?}"
    );
}

/// Otherwise a success could be due to this node's identity, and would count for a client with made-up credentials.
#[tokio::test]
async fn credentials_of_a_client_are_not_shown_beside_what_tells_this_node() {
    let server = Server::start(|_| Some(manifest_answer())).await;
    let mut host = host(&server);
    let name = HeaderName::from_static("x-api-key");
    host.headers.insert(name, HeaderValue::from_static("ours"));
    let mut repository = elsewhere();
    repository.origin.registry = server
        .url("")
        .parse::<oci::RegistryUrl>()
        .expect("one")
        .registry;
    repository.credentials = Some(ClientCredentials::new(HeaderValue::from_static(
        "Basic eDp5",
    )));
    let registries = at(Ok(host));
    let told = registries.head(&repository, &v1_reference()).await;
    assert!(
        matches!(told, Err(UpstreamError::Denied { .. })),
        "{told:?}"
    );
    assert_eq!(server.seen().len(), 0, "it is not asked");
}
