//! Requests to a registry on loopback: signing in, and following redirects.

mod blobs;
mod content;
mod credential_leaks;
mod encodings;
mod hosts;
mod lists;
mod reach_inside;
mod reached;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::TryStreamExt as _;
use http::Response;
use mirror::{
    ClientCredentials, Resolved, Upstream as _, UpstreamBlob, UpstreamError, UpstreamManifest,
    UpstreamRepository, Visibility,
};
use oci::{Digest, MediaType, Ranges, Tag};

use self::server::{Body, Seen, Server, response};
use crate::policy::tests::FakeNames;
use crate::proxy::Proxies;
use crate::{Options, Registries};

const MANIFEST: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;
const PASSWORD: &str = "open sesame";

fn repository(server: &Server) -> UpstreamRepository {
    named(server, "team/app")
}

fn named(server: &Server, repository: &str) -> UpstreamRepository {
    UpstreamRepository {
        origin: oci::Origin {
            registry: server.address.to_string().parse().expect("a registry"),
            repository: repository.parse().expect("a repository"),
        },
        credentials: None,
    }
}

fn registries(server: &Server, options: Options) -> Registries {
    let options = Options {
        registries: vec![server.url("").parse().expect("a registry")],
        ..options
    };
    Registries::with(options, Arc::new(FakeNames), &Proxies::default()).expect("set up")
}

fn tag(text: &str) -> Tag {
    text.parse().expect("a tag")
}

fn ranges(header: &str) -> Ranges {
    Ranges::parse(header)
        .expect("well-formed")
        .expect("of bytes")
}

/// The target of `v1`, by any of the methods.
async fn v1(
    registries: &Registries,
    repository: &UpstreamRepository,
) -> Result<UpstreamManifest, UpstreamError> {
    match registries.resolve(repository, &tag("v1")).await? {
        Resolved {
            manifest: Some(manifest),
            ..
        } => Ok(manifest),
        Resolved { digest, .. } => registries.manifest(repository, &digest).await,
    }
}

/// The manifest of all tests, by its digest.
async fn the_manifest(
    registries: &Registries,
    repository: &UpstreamRepository,
) -> Result<UpstreamManifest, UpstreamError> {
    let digest = Digest::sha256(MANIFEST);
    registries.manifest(repository, &digest).await
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn manifest_answer() -> Response<Body> {
    let digest = Digest::sha256(MANIFEST).to_string();
    let headers = [
        ("docker-content-digest", digest.as_str()),
        ("content-type", INDEX),
    ];
    response(200, &headers, MANIFEST)
}

/// A docker config.json with the user `ali` for a server.
fn auth_file(server: &Server) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let json = format!(
        r#"{{"auths":{{"http://{}/v2/":{{"username":"ali","password":"{PASSWORD}"}}}}}}"#,
        server.address
    );
    std::fs::write(file.path(), json).expect("written");
    file
}

fn with_credentials(server: &Server) -> (Registries, tempfile::NamedTempFile) {
    let file = auth_file(server);
    let options = Options {
        auth_file: Some(file.path().to_owned()),
        ..Options::default()
    };
    (registries(server, options), file)
}

/// `Basic` of the user that [`auth_file`] names.
const BASIC: &str = "Basic YWxpOm9wZW4gc2VzYW1l";

/// A registry with a token service. `anonymous`: whether anonymous tokens open the repository.
async fn token_registry(anonymous: bool) -> Server {
    Server::start(move |seen: &Seen| {
        if seen.target.starts_with("/token") {
            let is_known = seen.authorization() == Some(BASIC);
            let token = if is_known { "known" } else { "stranger" };
            let body = format!(r#"{{"token":"{token}","expires_in":300}}"#);
            return Some(response(200, &[], body));
        }
        Some(match seen.authorization() {
            Some("Bearer known") => manifest_answer(),
            Some("Bearer stranger") if anonymous => manifest_answer(),
            _ => {
                let host = seen.header("host").expect("a host");
                let challenge =
                    format!(r#"Bearer realm="http://{host}/token?x=y",service="reg",scope="repository:team/app:pull""#);
                response(401, &[("www-authenticate", &challenge)], "")
            }
        })
    })
    .await
}

#[tokio::test]
async fn a_public_repository_takes_an_anonymous_token_once() {
    let server = token_registry(true).await;
    let (registries, _file) = with_credentials(&server);
    for _ in 0..2 {
        let manifest = the_manifest(&registries, &repository(&server))
            .await
            .expect("there");
        assert_eq!(manifest.bytes, MANIFEST);
        assert_eq!(manifest.digest, Digest::sha256(MANIFEST));
        assert_eq!(manifest.visibility, Visibility::Shared);
    }
    let seen = server.seen();
    let targets: Vec<_> = seen.iter().map(|s| s.target.as_str()).collect();
    let manifest = format!("/v2/team/app/manifests/{}", Digest::sha256(MANIFEST));
    let manifest = manifest.as_str();
    let token = "/token?x=y&service=reg&scope=repository%3Ateam%2Fapp%3Apull";
    assert_eq!(targets, [manifest, token, manifest, manifest]);
    assert_eq!(seen[0].header("accept"), Some(MediaType::ACCEPT));
    assert!(
        seen.iter().all(|s| s.authorization() != Some(BASIC)),
        "no password was needed"
    );
}

#[tokio::test]
async fn what_takes_credentials_is_private_and_said_so_from_memory_too() {
    let server = token_registry(false).await;
    let (registries, _file) = with_credentials(&server);
    for _ in 0..2 {
        let manifest = the_manifest(&registries, &repository(&server))
            .await
            .expect("there");
        assert_eq!(manifest.visibility, Visibility::Private);
    }
    let passwords = server
        .seen()
        .into_iter()
        .filter(|s| s.authorization() == Some(BASIC));
    let passwords: Vec<_> = passwords.map(|s| s.target).collect();
    assert_eq!(
        passwords.len(),
        1,
        "to the token service alone: {passwords:?}"
    );
    assert!(passwords[0].starts_with("/token") && passwords[0].contains("account=ali"));

    let strangers = self::registries(&server, Options::default());
    let fault = the_manifest(&strangers, &repository(&server))
        .await
        .expect_err("closed");
    assert!(matches!(fault, UpstreamError::Denied { .. }), "{fault}");
}

#[tokio::test]
async fn many_at_once_sign_in_once() {
    let server = token_registry(true).await;
    let registries = registries(&server, Options::default());
    let repository = repository(&server);
    let asked = (0..16).map(|_| the_manifest(&registries, &repository));
    for manifest in futures::future::join_all(asked).await {
        manifest.expect("there");
    }
    let seen = server.seen();
    assert_eq!(
        seen.iter()
            .filter(|s| s.target.starts_with("/token"))
            .count(),
        1
    );
}

#[tokio::test]
async fn an_expired_or_revoked_token_is_replaced() {
    let revoked = Arc::new(AtomicBool::new(false));
    let state = revoked.clone();
    let server = Server::start(move |seen: &Seen| {
        let token = if state.load(Ordering::SeqCst) {
            "two"
        } else {
            "one"
        };
        if seen.target.starts_with("/token") {
            return Some(response(
                200,
                &[],
                format!(r#"{{"access_token":"{token}","expires_in":300}}"#),
            ));
        }
        Some(
            if seen.authorization() == Some(&format!("Bearer {token}")) {
                manifest_answer()
            } else {
                let realm = format!("http://{}/token", seen.header("host").expect("a host"));
                response(
                    401,
                    &[("www-authenticate", &format!("Bearer realm=\"{realm}\""))],
                    "",
                )
            },
        )
    })
    .await;
    let registries = registries(&server, Options::default());
    the_manifest(&registries, &repository(&server))
        .await
        .expect("there");
    revoked.store(true, Ordering::SeqCst);
    the_manifest(&registries, &repository(&server))
        .await
        .expect("there again");
}

#[tokio::test]
async fn basic_is_private_and_needs_credentials() {
    let server = Server::start(|seen: &Seen| {
        Some(if seen.authorization() == Some(BASIC) {
            manifest_answer()
        } else {
            response(401, &[("www-authenticate", "Basic realm=\"r\"")], "")
        })
    })
    .await;
    let (known, _file) = with_credentials(&server);
    let manifest = the_manifest(&known, &repository(&server))
        .await
        .expect("there");
    assert_eq!(manifest.visibility, Visibility::Private);
    let stranger = registries(&server, Options::default());
    let fault = the_manifest(&stranger, &repository(&server))
        .await
        .expect_err("closed");
    assert!(matches!(fault, UpstreamError::Denied { .. }));
    assert!(!fault.to_string().contains(PASSWORD));
}

#[tokio::test]
async fn an_identity_token_is_exchanged() {
    let server = Server::start(|seen: &Seen| {
        if seen.target == "/token" {
            let good = seen.method == "POST" && seen.body.contains("refresh_token=idt%2F1");
            let status = if good { 200 } else { 401 };
            return Some(response(status, &[], r#"{"access_token":"t"}"#));
        }
        Some(if seen.authorization() == Some("Bearer t") {
            manifest_answer()
        } else {
            let realm = format!("http://{}/token", seen.header("host").expect("a host"));
            response(
                401,
                &[("www-authenticate", &format!("Bearer realm=\"{realm}\""))],
                "",
            )
        })
    })
    .await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let json = format!(
        r#"{{"auths":{{"{}":{{"identitytoken":"idt/1"}}}}}}"#,
        server.address
    );
    std::fs::write(file.path(), json).expect("written");
    let options = Options {
        auth_file: Some(file.path().to_owned()),
        ..Options::default()
    };
    let manifest = the_manifest(&registries(&server, options), &repository(&server))
        .await
        .expect("there");
    assert_eq!(manifest.visibility, Visibility::Private);
}

#[tokio::test]
async fn authorization_stays_with_its_host() {
    let store = Server::start(|_: &Seen| Some(response(200, &[], "blob"))).await;
    let elsewhere = store.url("/bucket?X-Signature=secret");
    let server = Server::start(move |seen: &Seen| {
        Some(match (seen.authorization(), seen.target.as_str()) {
            (Some(BASIC), "/here") => response(307, &[("location", &elsewhere)], ""),
            (Some(BASIC), _) => response(302, &[("location", "/here")], ""),
            _ => response(401, &[("www-authenticate", "Basic")], ""),
        })
    })
    .await;
    let (registries, _file) = with_credentials(&server);
    let blob = registries
        .blob(&repository(&server), &Digest::sha256(b"blob"), None)
        .await;
    let blob = blob.expect("there");
    assert_eq!((blob.size, blob.visibility), (Some(4), Visibility::Private));
    assert_eq!(read(blob).await.expect("whole"), "blob");
    let seen = store.seen();
    assert_eq!((seen.len(), seen[0].authorization()), (1, None));
}

#[tokio::test]
async fn redirects_and_realms_are_vetted_before_anything_connects() {
    for target in [
        "http://169.254.169.254/latest/meta-data?token=secret",
        "http://metadata.example/?token=secret",
        "http://[fd00:ec2::254]/?token=secret",
        "http://user:secret@127.0.0.1/",
        "gopher://127.0.0.1/?secret",
    ] {
        let redirecting =
            Server::start(move |_: &Seen| Some(response(302, &[("location", target)], ""))).await;
        let challenge = format!("Bearer realm=\"{target}\"");
        let challenging = Server::start(move |_: &Seen| {
            Some(response(401, &[("www-authenticate", &challenge)], ""))
        })
        .await;
        for server in [redirecting, challenging] {
            let registries = registries(&server, Options::default());
            let fault = the_manifest(&registries, &repository(&server)).await;
            let fault = fault.expect_err("refused");
            assert!(
                matches!(fault, UpstreamError::Forbidden(..)),
                "{target}: {fault}"
            );
            assert!(!format!("{fault} {fault:?}").contains("secret"), "{fault}");
        }
    }
    // A registry that is not listed is not called on loopback either.
    let server = Server::start(|_: &Seen| Some(manifest_answer())).await;
    let registries = Registries::with(Options::default(), Arc::new(FakeNames), &Proxies::default())
        .expect("set up");
    let fault = the_manifest(&registries, &repository(&server))
        .await
        .expect_err("refused");
    assert!(matches!(fault, UpstreamError::Forbidden(..)), "{fault}");
    assert!(server.seen().is_empty());
}

async fn read(blob: UpstreamBlob) -> Result<Bytes, UpstreamError> {
    let pieces: Vec<_> = blob.body.try_collect().await?;
    Ok(pieces.concat().into())
}
