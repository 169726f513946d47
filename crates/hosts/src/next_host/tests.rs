use super::*;

/// A containerd folder with files, by their paths.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a folder");
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }
    root
}

fn next(root: &tempfile::TempDir, registry: &str) -> Result<Option<NextHost>, NextHostError> {
    let path = ConfigPath::from(root.path().to_owned());
    let registry = registry.parse().expect("a registry");
    next_host(&path, &registry, |url| {
        url.to_string() == "http://10.0.0.9:5000"
    })
}

fn url_and_path(root: &tempfile::TempDir, registry: &str) -> Option<String> {
    let host = next(root, registry).expect("readable")?;
    Some(format!("{}{}", host.url, host.path))
}

const OURS: &str = "# Written by Peili. x\nserver = 'https://a.io'\n\n[host.'http://127.0.0.1:5000']\n\
                    capabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n";

#[test]
fn the_registry_itself_needs_no_host() {
    let root = folder(&[("a.io/hosts.toml", OURS), ("b.io/readme", "")]);
    for registry in ["a.io", "b.io", "c.io", "docker.io"] {
        assert_eq!(url_and_path(&root, registry), None, "{registry}");
    }
    let spegels = folder(&[(
        "_default/hosts.toml",
        "[host.'http://10.1.1.1:30020']\ncapabilities = ['pull', 'resolve']\ndial_timeout = '200ms'",
    )]);
    assert_eq!(url_and_path(&spegels, "docker.io"), None);
}

#[test]
fn hosts_behind_the_mirrors_and_the_server_are_found() {
    let behind = format!("{OURS}\n[host.'https://office.example/proxy']\noverride_path = true\n");
    let by_hand = "server = 'http://up.example:5000'\n[host.'http://10.0.0.9:5000']\n";
    let no_tags = "server = 'x.example/'\n[host.'https://y.example']\ncapabilities = ['pull']\n";
    let root = folder(&[
        ("a.io/hosts.toml", behind.as_str()),
        ("10.0.0.1_5000_/hosts.toml", by_hand),
        ("b.io/hosts.toml", no_tags),
        ("_default/hosts.toml", "[host.'https://cache.example/v2']\n"),
    ]);
    for (registry, found) in [
        ("a.io", "https://office.example/proxy"),
        ("10.0.0.1:5000", "http://up.example:5000/v2"),
        ("b.io", "https://x.example/v2"),
        ("docker.io", "https://cache.example/v2"),
    ] {
        assert_eq!(
            url_and_path(&root, registry).as_deref(),
            Some(found),
            "{registry}"
        );
    }
}

#[test]
fn tls_and_headers_of_the_host_are_read() {
    let text = "ca = 'not/this'\n[host.'https://h.example']\nca = ['a.crt', '/etc/b.crt']\n\
                client = [['c.pem', 'c.key']]\nskip_verify = true\n[host.'https://h.example'.header]\n\
                x-one = 'secret'\nx-two = ['a', 'b']\n\"bad name\" = 'x'\n";
    let root = folder(&[
        ("a.io/hosts.toml", text),
        ("b.io/one.crt", ""),
        ("b.io/me.cert", ""),
        ("b.io/me.key", ""),
    ]);
    let host = next(&root, "a.io").expect("readable").expect("a host");
    let at = |name: &str| root.path().join("a.io").join(name);
    assert_eq!(host.authorities, [at("a.crt"), PathBuf::from("/etc/b.crt")]);
    assert_eq!(host.identity, Some((at("c.pem"), Some(at("c.key")))));
    assert!(host.skip_verify);
    assert_eq!(host.headers.len(), 3);
    assert!(
        !format!("{host:?}").contains("secret"),
        "a header may be a password"
    );

    let host = next(&root, "b.io").expect("readable").expect("a host");
    let at = |name: &str| root.path().join("b.io").join(name);
    assert_eq!(host.authorities, [at("one.crt")]);
    assert_eq!(host.identity, Some((at("me.cert"), Some(at("me.key")))));
}

#[test]
fn what_containerd_could_not_read_either_is_an_error_that_names_the_file() {
    for text in ["server = ", "[host.'ftp://x']\n", "server = 'http://'\n"] {
        let root = folder(&[("a.io/hosts.toml", text)]);
        let error = next(&root, "a.io").expect_err(text).to_string();
        assert!(error.contains("a.io/hosts.toml"), "{error}");
    }
}
