//! Attempts to make a mirror call what only this host reaches: metadata services, daemons on loopback. None succeeds,
//! whether through the name of a registry, a redirect, a token service, or hosts.toml's host of another registry.

use http::HeaderMap;
use oci::{Reference, Registry};

use super::*;
use crate::{HostTls, RegistryHost, RegistryHosts};

/// Names of registries that lead to this host, with the port of a server there, and to metadata services.
const NAMES: [&str; 24] = [
    "127.0.0.1:PORT",
    "127.1:PORT",
    "2130706433:PORT",
    "0x7f000001:PORT",
    "0x7f.1:PORT",
    "0177.0.0.1:PORT",
    "127.9.9.9:PORT",
    "0.0.0.0:PORT",
    "0:PORT",
    "localhost:PORT",
    "LOCALHOST:PORT",
    "a.localhost:PORT",
    "[::1]:PORT",
    "[::]:PORT",
    "[::ffff:127.0.0.1]:PORT",
    "[::127.0.0.1]:PORT",
    "[64:ff9b::127.0.0.1]:PORT",
    "[2002:7f00:1::]:PORT",
    "[2001:db8::5efe:7f00:1]:PORT",
    // Names that resolve to loopback.
    "rebound.example:PORT",
    "mapped.example:PORT",
    // Metadata services: of most clouds, of Azure, of EKS' pods.
    "169.254.169.254",
    "168.63.129.16",
    "[fd00:ec2::23]",
];

/// Redirect targets of a registry on loopback, which the operator has listed.
const TARGETS: [&str; 14] = [
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/",
    "http://0xa9.0xfe.0xa9.0xfe/",
    "http://[::ffff:169.254.169.254]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://metadata.example/",
    "http://metadata.google.internal./",
    "http://100.100.100.200/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::a9fe:a9fe]/",
    "http://user@SERVER/",
    "file:///etc/passwd",
    "ftp://SERVER/",
    "gopher://SERVER/",
];

/// Texts that are no registry: they are refused before any call.
const NO_REGISTRIES: [&str; 8] = [
    "127.0.0.1:PORT/latest",
    "user@127.0.0.1:PORT",
    "http://127.0.0.1:PORT",
    "127.0.0.1:PORT#",
    "127.0.0.1:PORT?x=",
    "127.0.0.1:PORT\\@quay.io",
    "127.0.0.1.:PORT",
    "[fe80::1%25lo]:PORT",
];

fn v1() -> Reference {
    Reference::Tag(tag("v1"))
}

fn of(registry: &str) -> UpstreamRepository {
    UpstreamRepository {
        origin: oci::Origin {
            registry: registry.parse().expect("a registry"),
            repository: "team/app".parse().expect("a repository"),
        },
        credentials: None,
    }
}

#[tokio::test]
async fn no_name_of_a_registry_leads_inside() {
    for is_tls in [false, true] {
        let server = match is_tls {
            true => Server::start_tls(|_: &Seen| Some(manifest_answer())).await,
            false => Server::start(|_: &Seen| Some(manifest_answer())).await,
        };
        let port = server.address.port().to_string();
        let (names, proxies) = (Arc::new(FakeNames), Proxies::default());
        let registries = Registries::with(Options::default(), names, &proxies).expect("set up");
        for name in NAMES {
            let name = name.replace("PORT", &port);
            let head = registries.head(&of(&name), &v1()).await;
            let error = head.expect_err(&name);
            let is_refused = matches!(error, UpstreamError::Forbidden(..))
                || error.to_string().contains("address");
            assert!(is_refused, "{name}: {error}");
        }
        assert!(server.seen().is_empty(), "{:?}", server.seen());
        for text in NO_REGISTRIES {
            let text = text.replace("PORT", &port);
            assert!(text.parse::<Registry>().is_err(), "{text}");
        }
    }
}

#[tokio::test]
async fn no_redirect_and_no_token_service_leads_inside() {
    let other = Server::start(|_: &Seen| Some(manifest_answer())).await;
    for target in TARGETS {
        let target = target.replace("SERVER", &other.address.to_string());
        let challenge = format!("Bearer realm=\"{target}\",service=\"s\"");
        let location = target.clone();
        let redirecting =
            Server::start(move |_: &Seen| Some(response(307, &[("location", &location)], "")))
                .await;
        let challenging = Server::start(move |_: &Seen| {
            Some(response(401, &[("www-authenticate", &challenge)], ""))
        })
        .await;
        for server in [redirecting, challenging] {
            let registries = registries(&server, Options::default());
            let repository = repository(&server);
            let head = registries.head(&repository, &v1()).await;
            head.expect_err(&target);
            let digest = Digest::sha256(b"x");
            let blob = registries.blob(&repository, &digest, None).await;
            assert!(blob.is_err(), "{target}");
        }
    }
    assert!(other.seen().is_empty(), "{:?}", other.seen());
}

/// A host in hosts.toml, for one registry only.
struct Of(&'static str, RegistryHost);

impl RegistryHosts for Of {
    fn of(&self, registry: &Registry) -> Result<Option<RegistryHost>, String> {
        Ok((registry.as_str() == self.0).then(|| self.1.clone()))
    }
}

fn host(server: &Server) -> RegistryHost {
    RegistryHost {
        url: server.url("").parse().expect("a registry"),
        path: "/v2".into(),
        tls: HostTls::default(),
        headers: HeaderMap::new(),
    }
}

fn at(host: RegistryHost) -> Registries {
    let hosts = Arc::new(Of("registry.example", host));
    let (names, proxies) = (Arc::new(FakeNames), Proxies::default());
    Registries::with_hosts(Options::default(), names, &proxies, hosts).expect("set up")
}

#[tokio::test]
async fn the_host_of_one_registry_serves_no_other() {
    let elsewhere = Server::start(|_: &Seen| Some(manifest_answer())).await;
    let target = "http://169.254.169.254/";
    let server =
        Server::start(move |_: &Seen| Some(response(302, &[("location", target)], ""))).await;
    let registries = at(host(&server));
    let port = elsewhere.address.port();
    for name in [
        format!("127.0.0.1:{port}"),
        server.address.to_string(),
        "REGISTRY.example".to_owned(),
    ] {
        let head = registries.head(&of(&name), &v1()).await;
        head.expect_err(&name);
    }
    assert!(server.seen().is_empty() && elsewhere.seen().is_empty());
    // The host itself cannot lead to internal addresses either.
    let head = registries.head(&of("registry.example"), &v1()).await;
    let error = head.expect_err("a metadata address");
    assert!(matches!(error, UpstreamError::Forbidden(..)), "{error}");
    assert_eq!(server.seen().len(), 1);
}

/// An unreachable target of the registry's answer says nothing about the registry: it was reached.
#[tokio::test]
async fn a_registry_whose_token_service_is_gone_fails() {
    let gone = Server::start(|_: &Seen| Some(manifest_answer()))
        .await
        .url("/token");
    let challenge = format!("Bearer realm=\"{gone}\",service=\"s\"");
    let challenging =
        Server::start(move |_: &Seen| Some(response(401, &[("www-authenticate", &challenge)], "")))
            .await;
    let location = gone.clone();
    let redirecting =
        Server::start(move |_: &Seen| Some(response(307, &[("location", &location)], ""))).await;
    for server in [challenging, redirecting] {
        let registries = at(host(&server));
        let head = registries.head(&of("registry.example"), &v1()).await;
        let error = head.expect_err("nobody there");
        assert!(matches!(error, UpstreamError::Failed(..)), "{error}");
    }
}

/// A client's credentials are for the registry, and not for another host that serves it.
#[tokio::test]
async fn credentials_of_a_client_go_to_no_stand_in() {
    let server = Server::start_tls(|_: &Seen| Some(manifest_answer())).await;
    let mut host = host(&server);
    host.tls.skip_verify = true;
    let mut asked = of("registry.example");
    let header = http::HeaderValue::from_static("Basic eDp5");
    asked.credentials = Some(ClientCredentials::new(header));
    let head = at(host).head(&asked, &v1()).await;
    let error = head.expect_err("it is not asked");
    assert!(matches!(error, UpstreamError::Denied { .. }), "{error}");
    assert!(server.seen().is_empty());
}
