//! Credentials, and which hosts must not get them.

use super::*;

/// A redirect target that asks for credentials of every kind.
async fn stranger() -> Server {
    Server::start(|seen: &Seen| {
        let host = seen.header("host").expect("a host");
        let bearer = format!(r#"Bearer realm="http://{host}/token",service="s""#);
        let challenges = [("www-authenticate", "Basic"), ("www-authenticate", &bearer)];
        Some(response(401, &challenges, ""))
    })
    .await
}

fn assert_saw_nothing(stranger: &Server) {
    for seen in stranger.seen() {
        assert!(seen.authorization().is_none(), "{seen:?}");
        assert!(!seen.target.starts_with("/token"), "{seen:?}");
    }
}

#[tokio::test]
async fn where_a_redirect_leads_nobody_is_told_a_password() {
    let stranger = stranger().await;
    let elsewhere = stranger.url("/v2/team/app/manifests/x");
    let server =
        Server::start(move |_: &Seen| Some(response(302, &[("location", &elsewhere)], "")));
    let server = server.await;
    let (registries, _file) = with_credentials(&server);
    let fault = the_manifest(&registries, &repository(&server)).await;
    let fault = fault.expect_err("refused there");
    assert!(fault.to_string().contains("redirects"), "{fault}");
    assert!(matches!(fault, UpstreamError::Failed(..)), "{fault}");
    assert!(!stranger.seen().is_empty());
    assert_saw_nothing(&stranger);
}

/// The token service is the registry's own; its redirect target is not.
#[tokio::test]
async fn where_a_token_service_redirects_no_secret_goes() {
    for status in [301, 302, 303, 307, 308] {
        for secret in [
            r#""auth":"YWxpOm9wZW4gc2VzYW1l""#,
            r#""identitytoken":"idt/1""#,
        ] {
            let stranger = stranger().await;
            let elsewhere = stranger.url("/elsewhere");
            let server = Server::start(move |seen: &Seen| {
                if seen.target.starts_with("/token") {
                    return Some(response(status, &[("location", &elsewhere)], ""));
                }
                let realm = format!("http://{}/token", seen.header("host").expect("a host"));
                let challenge = format!("Bearer realm=\"{realm}\"");
                Some(response(401, &[("www-authenticate", &challenge)], ""))
            })
            .await;
            let file = tempfile::NamedTempFile::new().expect("a file");
            let auths = format!(r#"{{"auths":{{"{}":{{{secret}}}}}}}"#, server.address);
            std::fs::write(file.path(), auths).expect("written");
            let options = Options {
                auth_file: Some(file.path().to_owned()),
                ..Options::default()
            };
            let registries = registries(&server, options);
            let fault = the_manifest(&registries, &repository(&server)).await;
            fault.expect_err("nobody gives a token");
            let asked = server.seen();
            let signs_in =
                |seen: &&Seen| seen.authorization() == Some(BASIC) || seen.method == "POST";
            assert!(asked.iter().any(|seen| signs_in(&seen)), "{asked:?}");
            assert_saw_nothing(&stranger);
            let seen = stranger.seen();
            assert!(seen.iter().all(|seen| seen.body.is_empty()), "{seen:?}");
            assert!(
                seen.iter().all(|seen| !seen.target.contains("account")),
                "{seen:?}"
            );
        }
    }
}

/// By a redirect and by a realm. The signed query is in no error.
#[tokio::test]
async fn from_https_no_way_leads_to_http() {
    let stranger = stranger().await;
    for by_realm in [false, true] {
        let elsewhere = stranger.url("/x?signature=secret");
        let server = Server::start_tls(move |_: &Seen| {
            let challenge = format!("Bearer realm=\"{elsewhere}\"");
            Some(match by_realm {
                true => response(401, &[("www-authenticate", &challenge)], ""),
                false => response(307, &[("location", &elsewhere)], ""),
            })
        })
        .await;
        let auth = auth_file(&server);
        let options = Options {
            auth_file: Some(auth.path().to_owned()),
            ..Options::default()
        };
        let (registries, _file) = trusting(&server, options);
        let fault = the_manifest(&registries, &repository(&server)).await;
        let fault = fault.expect_err("refused");
        assert!(matches!(fault, UpstreamError::Forbidden(..)), "{fault}");
        assert!(!format!("{fault} {fault:?}").contains("secret"), "{fault}");
    }
    assert!(stranger.seen().is_empty());
}

#[tokio::test]
async fn a_client_is_told_the_challenges_of_the_registry_alone() {
    let server = Server::start(|seen: &Seen| {
        let challenges = [
            (
                "www-authenticate",
                r#"Negotiate, Basic realm="r", charset=UTF-8"#,
            ),
            (
                "www-authenticate",
                r#"Bearer realm="https://t.invalid/token""#,
            ),
        ];
        Some(match seen.target.contains("/round/") {
            true => response(302, &[("location", "/v2/team/app/x")], ""),
            false => response(401, &challenges[..1], ""),
        })
    })
    .await;
    let registries = registries(&server, Options::default());
    let challenges = async |name: &str| {
        let fault = the_manifest(&registries, &named(&server, name)).await;
        match fault.expect_err("closed") {
            UpstreamError::Denied { challenges, .. } => challenges,
            fault => panic!("{fault}"),
        }
    };
    let told = challenges("team/app").await;
    assert_eq!(told, [r#"Basic realm="r",charset=UTF-8"#]);
    assert!(challenges("round/app").await.is_empty());
}

fn with_client(repository: UpstreamRepository) -> UpstreamRepository {
    let header = http::HeaderValue::from_static("Bearer of-the-client");
    UpstreamRepository {
        credentials: Some(ClientCredentials::new(header)),
        ..repository
    }
}

/// Registries that trust the certificate of a server.
fn trusting(server: &Server, options: Options) -> (Registries, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let certificate = server.certificate.as_ref().expect("with TLS");
    std::fs::write(file.path(), certificate).expect("written");
    let options = Options {
        ca_file: Some(file.path().to_owned()),
        ..options
    };
    (registries(server, options), file)
}

#[tokio::test]
async fn a_clients_credentials_go_to_the_registry_and_nowhere_else() {
    let stranger = Server::start_tls(|_: &Seen| Some(response(401, &[], ""))).await;
    let elsewhere = stranger.url("/blob");
    let server = Server::start_tls(move |seen: &Seen| {
        Some(
            match (seen.authorization(), seen.target.contains("blobs")) {
                (Some("Bearer of-the-client"), false) => manifest_answer(),
                (Some("Bearer of-the-client"), true) => {
                    response(307, &[("location", &elsewhere)], "")
                }
                _ => {
                    let challenge = r#"Bearer realm="https://127.0.0.1/token",service="s""#;
                    response(401, &[("www-authenticate", challenge)], "")
                }
            },
        )
    })
    .await;
    // This node has credentials too. They are not mixed with the client's.
    let auth = auth_file(&server);
    let certificates = tempfile::NamedTempFile::new().expect("a file");
    let both = [&server, &stranger].map(|s| s.certificate.clone().expect("with TLS"));
    std::fs::write(certificates.path(), both.concat()).expect("written");
    let options = Options {
        auth_file: Some(auth.path().to_owned()),
        ca_file: Some(certificates.path().to_owned()),
        ..Options::default()
    };
    let registries = registries(&server, options);
    let repository = with_client(repository(&server));
    for _ in 0..2 {
        let manifest = the_manifest(&registries, &repository).await.expect("open");
        assert_eq!(manifest.visibility, Visibility::Private);
    }
    let blob = registries
        .blob(&repository, &Digest::sha256(b"x"), None)
        .await;
    assert!(blob.is_err(), "the store refuses");
    assert_eq!(stranger.seen().len(), 1);
    assert_saw_nothing(&stranger);
    let seen = server.seen();
    assert_eq!(seen.len(), 3, "nobody signs in: {seen:?}");

    // Nothing of it remains for the next client.
    let without = UpstreamRepository {
        credentials: None,
        ..repository
    };
    let fault = the_manifest(&registries, &without).await;
    fault.expect_err("closed");
    let seen = server.seen();
    assert_eq!(seen.get(3).map(Seen::authorization), Some(None));
}

#[tokio::test]
async fn a_clients_credentials_are_not_sent_in_clear_text() {
    let server = Server::start(|_: &Seen| Some(manifest_answer())).await;
    let registries = registries(&server, Options::default());
    let repository = with_client(repository(&server));
    let manifest = the_manifest(&registries, &repository).await.expect("open");
    assert_eq!(manifest.visibility, Visibility::Shared);
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.authorization().is_none())
    );
}

#[tokio::test]
async fn refused_credentials_of_a_client_are_answered_with_the_challenge() {
    let server = Server::start_tls(|seen: &Seen| {
        assert_eq!(seen.authorization(), Some("Bearer of-the-client"));
        let challenge = r#"Bearer realm="https://127.0.0.1/token",error="invalid_token""#;
        Some(response(401, &[("www-authenticate", challenge)], ""))
    })
    .await;
    let (registries, _file) = trusting(&server, Options::default());
    let fault = the_manifest(&registries, &with_client(repository(&server))).await;
    let UpstreamError::Denied { challenges, .. } = fault.expect_err("refused") else {
        panic!("another fault");
    };
    assert_eq!(challenges.len(), 1);
    assert_eq!(server.seen().len(), 1);
}

/// Registries refuse an expired token with 401, some with 400 or 403.
#[tokio::test]
async fn a_cached_token_that_is_refused_is_replaced_once() {
    for status in [400, 401, 403] {
        let server = Server::start(move |seen: &Seen| {
            if seen.target.starts_with("/token") {
                return Some(response(200, &[], r#"{"token":"","access_token":"t"}"#));
            }
            let is_first = seen.target.contains("/manifests/");
            Some(match seen.authorization() {
                Some("Bearer t") if is_first => manifest_answer(),
                Some("Bearer t") => response(status, &[], ""),
                _ => {
                    let realm = format!("http://{}/token", seen.header("host").expect("a host"));
                    let challenge = format!("Bearer realm=\"{realm}\",scope=\"\"");
                    response(401, &[("www-authenticate", &challenge)], "")
                }
            })
        })
        .await;
        let registries = registries(&server, Options::default());
        let repository = repository(&server);
        the_manifest(&registries, &repository).await.expect("there");
        let before = server.seen().len();
        let blob = registries
            .blob(&repository, &Digest::sha256(b"x"), None)
            .await;
        assert!(blob.is_err());
        let seen = server.seen().split_off(before);
        let tokens = seen.iter().filter(|s| s.target.starts_with("/token"));
        assert_eq!((tokens.count(), seen.len()), (1, 4), "{status}");
        let scope = "scope=repository%3Ateam%2Fapp%3Apull";
        assert!(seen[2].target.contains(scope), "{:?}", seen[2]);
    }
}

#[tokio::test]
async fn a_token_service_for_those_it_knows_is_asked_with_the_password() {
    let server = Server::start(|seen: &Seen| {
        let is_known = seen.authorization() == Some(BASIC);
        Some(match (seen.target.as_str(), seen.authorization()) {
            (target, _) if target.starts_with("/token") => match is_known {
                true => response(200, &[], r#"{"token":"known"}"#),
                false => response(500, &[], ""),
            },
            (_, Some("Bearer known")) => manifest_answer(),
            _ => {
                let realm = format!("http://{}/token", seen.header("host").expect("a host"));
                let challenge = format!("Bearer realm=\"{realm}\"");
                response(401, &[("www-authenticate", &challenge)], "")
            }
        })
    })
    .await;
    let (registries, _file) = with_credentials(&server);
    let manifest = the_manifest(&registries, &repository(&server)).await;
    assert_eq!(manifest.expect("there").visibility, Visibility::Private);
}
