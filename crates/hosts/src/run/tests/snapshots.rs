//! The written files, byte for byte.

use super::*;
use crate::{Credentials, NodeSecret, Warning};

const HEAD: &str = "# Written by Peili. Do not edit: what stood here before is in _backup and comes back with \
                    `peili cleanup`.\n";

fn written(folder: &Folder, path: &str) -> String {
    folder
        .read(path)
        .strip_prefix(HEAD)
        .expect("marked")
        .to_owned()
}

#[test]
fn a_registry_and_docker_hub() {
    let folder = Folder::new();
    let report = folder.configure(&["https://docker.io", "http://foo.bar:5000"]);
    assert_eq!(
        written(&folder, "docker.io/hosts.toml"),
        "server = 'https://registry-1.docker.io'\n\n[host.'http://127.0.0.1:5000']\n\
         capabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n"
    );
    assert_eq!(
        written(&folder, "foo.bar:5000/hosts.toml"),
        "server = 'http://foo.bar:5000'\n\n[host.'http://127.0.0.1:5000']\n\
         capabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n"
    );
    let files = ["docker.io/hosts.toml", "foo.bar:5000/hosts.toml"];
    assert_eq!(report.written, files.map(|file| folder.path.join(file)));
    assert_eq!(
        (
            folder.mode("docker.io"),
            folder.mode("docker.io/hosts.toml")
        ),
        (0o755, 0o644)
    );
}

#[test]
fn all_registries_by_any_of_its_names() {
    for names in [&[][..], &["_default"], &["*"], &["*", "_default"]] {
        let folder = Folder::new();
        folder.configure(names);
        assert_eq!(
            written(&folder, "_default/hosts.toml"),
            "\n[host.'http://127.0.0.1:5000']\ncapabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n"
        );
        assert_eq!(folder.snapshot().live.len(), 1);
    }
}

#[test]
fn several_targets_with_headers_for_those_that_are_ours() {
    let folder = Folder::new();
    let secret = NodeSecret::random();
    let targets = [
        "http://10.0.0.1:30020",
        "http://10.0.0.1:30021",
        "https://harbor.office",
        "http://10.0.0.1:30020",
    ];
    let report = configure(&Configuration {
        targets: targets
            .iter()
            .map(|t| t.parse().expect("well-formed"))
            .collect(),
        resolve_tags: false,
        credentials: Some(Credentials::new("hello", "world").expect("sound")),
        node_secret: Some(secret.clone()),
        ..folder.configuration(&["https://ghcr.io"])
    })
    .expect("configured");
    let text = written(&folder, "ghcr.io/hosts.toml").replace(secret.header_value(), "SECRET");
    assert_eq!(
        text,
        "server = 'https://ghcr.io'\n\
         \n[host.'http://10.0.0.1:30020']\ncapabilities = ['pull']\ndial_timeout = '200ms'\n\
         \n[host.'http://10.0.0.1:30020'.header]\nAuthorization = 'Basic aGVsbG86d29ybGQ='\n\
         X-Peili-Node-Secret = 'SECRET'\n\
         \n[host.'http://10.0.0.1:30021']\ncapabilities = ['pull']\ndial_timeout = '200ms'\n\
         \n[host.'http://10.0.0.1:30021'.header]\nAuthorization = 'Basic aGVsbG86d29ybGQ='\n\
         \n[host.'https://harbor.office']\ncapabilities = ['pull']\ndial_timeout = '200ms'\n"
    );
    text.parse::<toml_edit::DocumentMut>().expect("TOML");
    assert_eq!(
        folder.mode("ghcr.io/hosts.toml"),
        0o600,
        "what holds a secret is for root alone"
    );
    assert!(report.warnings.is_empty(), "{report:?}");
}

#[test]
fn an_ipv6_address_is_bracketed_and_warned_of() {
    let folder = Folder::new();
    let target: crate::Target = "http://fd00::1:30020".parse().expect("well-formed");
    let report = configure(&Configuration {
        targets: vec![target.clone()],
        ..folder.configuration(&["https://[fd00::9]:5000"])
    })
    .expect("configured");
    let text = written(&folder, "[fd00::9]:5000/hosts.toml");
    assert!(
        text.starts_with("server = 'https://[fd00::9]:5000'\n\n[host.'http://[fd00::1]:30020']\n"),
        "{text}"
    );
    assert_eq!(report.warnings, [Warning::Ipv6Literal { target }]);
}

#[test]
fn what_cannot_be_meant_is_refused_and_nothing_is_changed() {
    let folder = Folder::with(&[("docker.io/hosts.toml", "x = 1")]);
    let before = folder.snapshot();
    let without_target = Configuration {
        targets: Vec::new(),
        ..folder.configuration(&[])
    };
    let refused = configure(&without_target)
        .expect_err("no target")
        .to_string();
    assert!(refused.contains("--mirror-targets"), "{refused}");
    let refused = configure(&folder.configuration(&["http://a.b", "https://a.b"]))
        .expect_err("twice")
        .to_string();
    assert!(refused.contains("a.b twice"), "{refused}");
    assert_eq!(folder.snapshot(), before);
}
