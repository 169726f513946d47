use proptest::prelude::*;

use super::*;
use crate::{Credentials, NodeSecret};

fn configuration(targets: &[&str]) -> Configuration {
    Configuration {
        path: "/etc/containerd/certs.d".parse().expect("a path"),
        registries: Vec::new(),
        targets: targets
            .iter()
            .map(|t| t.parse().expect("well-formed"))
            .collect(),
        resolve_tags: true,
        prepend_existing: true,
        credentials: None,
        node_secret: None,
    }
}

fn prepended(
    configuration: &Configuration,
    upstream: &str,
    text: &str,
) -> Result<String, TextFault> {
    let targets: Vec<_> = configuration.targets.iter().collect();
    let upstream = upstream.parse().expect("well-formed");
    let merged = prepend(configuration, &targets, Some(&upstream), text.as_bytes())?;
    let body = merged
        .strip_prefix(&render::head())
        .expect("marked")
        .to_owned();
    body.parse::<DocumentMut>().expect("the result is TOML");
    Ok(body)
}

fn merged(text: &str) -> String {
    prepended(
        &configuration(&["http://127.0.0.1:5000"]),
        "https://ghcr.io",
        text,
    )
    .expect("combined")
}

#[test]
fn the_users_hosts_stay_as_they_are_behind_ours() {
    let users = r#"# The office, 2025.
server = "https://registry-1.docker.io" # upstream
ca = "up.crt"

# Fast, but only at home.
[host."https://mirror.office/v2/hub"]
  capabilities = ["pull"]
  override_path = true
  ca = ["office.crt", "/etc/ssl/other.pem"]
  client = [["c.cert", "c.key"]]
  skip_verify = true # for now
  [host."https://mirror.office/v2/hub".header]
    x-team = ["a", "b"]

[host."https://b"]
# The end.
"#;
    let (root, tables) = users.split_at(users.find("\n# Fast").expect("there"));
    let expected = format!(
        "{root}\n[host.'http://127.0.0.1:5000']\ncapabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n{tables}"
    );
    assert_eq!(merged(users), expected);
}

#[test]
fn without_settings_of_its_own_the_file_begins_with_our_hosts() {
    assert_eq!(
        merged("# Mine.\n[host.\"https://a\"]"),
        "\n[host.'http://127.0.0.1:5000']\ncapabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n\
         \n# Mine.\n[host.\"https://a\"]\n"
    );
    assert_eq!(
        merged("server = 'https://a'"),
        "server = 'https://a'\n\n[host.'http://127.0.0.1:5000']\ncapabilities = ['pull', 'resolve']\n\
         dial_timeout = '200ms'\n"
    );
}

#[test]
fn a_server_is_added_only_where_containerd_would_guess_wrong() {
    let target = configuration(&["http://127.0.0.1:5000"]);
    let plain =
        prepended(&target, "http://10.0.0.1:5000", "[host.'https://a']\n").expect("combined");
    assert!(
        plain.starts_with("server = 'http://10.0.0.1:5000'\n\n[host."),
        "{plain}"
    );
    let told =
        prepended(&target, "http://10.0.0.1:5000", "server = 'https://a'\n").expect("combined");
    assert!(told.starts_with("server = 'https://a'\n"), "{told}");
    assert!(!merged("[host.'https://a']\n").contains("server"));
}

#[test]
fn a_table_of_the_users_for_our_target_becomes_ours_and_keeps_the_rest() {
    let mut configuration = configuration(&["http://127.0.0.1:5000", "https://zot.office"]);
    let secret = NodeSecret::random();
    configuration.node_secret = Some(secret.clone());
    configuration.credentials = Some(Credentials::new("hello", "world").expect("sound"));
    let text = prepended(
        &configuration,
        "https://ghcr.io",
        "[host.\"https://a\"]\n\n# Our zot.\n[host.\"https://zot.office/v2/\"]\nca = 'zot.crt'\ncapabilities = ['push']\n\
         dial_timeout = '1s'\n\n[host.\"http://127.0.0.1:5000\"]\n[host.\"http://127.0.0.1:5000\".header]\nx = 'y'\n",
    )
    .expect("combined");
    assert_eq!(
        text,
        format!(
            "\n[host.\"http://127.0.0.1:5000\"]\ncapabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n\
             [host.\"http://127.0.0.1:5000\".header]\nx = 'y'\nAuthorization = 'Basic aGVsbG86d29ybGQ='\n\
             X-Peili-Node-Secret = '{}'\n\n# Our zot.\n[host.\"https://zot.office/v2/\"]\nca = 'zot.crt'\n\
             capabilities = ['pull', 'resolve']\ndial_timeout = '1s'\n\n[host.\"https://a\"]\n",
            secret.header_value()
        )
    );
}

#[test]
fn faults_have_a_place() {
    let target = configuration(&["http://127.0.0.1:5000"]);
    for (text, place, word) in [
        ("server = 'https://a'\n[host", Some((2, 6)), "not TOML"),
        ("server = \n", Some((1, 10)), "not TOML"),
        ("a = 1\nä = 2\n", Some((2, 1)), "not TOML"),
        (
            "x = 1\nhost = { 'https://a' = {} }\n",
            Some((2, 1)),
            "table of its own",
        ),
        (
            "[host]\n  'https://a' = {}\n",
            Some((2, 3)),
            "table of its own",
        ),
        (
            "host.'https://a'.ca = 'x'\n",
            Some((1, 1)),
            "table of its own",
        ),
        ("[[host]]\n", Some((1, 3)), "table of its own"),
        ("[host.a]\nheader = 1\n", Some((2, 1)), "header"),
    ] {
        let fault = prepended(&target, "https://ghcr.io", text).expect_err(text);
        assert_eq!(fault.position, place, "{text}: {fault:?}");
        assert!(fault.message.contains(word), "{text}: {fault:?}");
    }
    let fault = check(b"a = 1\nb = '\xff'").expect_err("not UTF-8");
    assert_eq!(fault.position, Some((2, 6)));
}

#[test]
fn certificates_of_dockers_pattern_are_named() {
    let names = [
        "a.crt",
        "b.crt",
        "c.cert",
        "c.key",
        "d.cert",
        "it's.crt",
        "notes.txt",
    ];
    assert_eq!(
        certificates(&names.into_iter()),
        "ca = [\"a.crt\", \"b.crt\", \"it's.crt\"]\nclient = [[\"c.cert\", \"c.key\"], [\"d.cert\", \"d.cert\"]]\n"
    );
    assert_eq!(certificates(&["x"].into_iter()), "");
}

/// A possible file of a user: settings, hosts in any order, comments between.
fn users_file() -> impl Strategy<Value = String> {
    let comment = prop_oneof![
        Just(String::new()),
        Just("# c\n".into()),
        Just("\n\n  # c\n".into())
    ];
    let root = prop_oneof![
        Just(""),
        Just("server = \"https://s\"\n"),
        Just("ca = ['a', \"b\"] # x\n"),
        Just("server='x'\nheader.a = 'b'\n"),
    ];
    let keys = prop_oneof![
        Just(""),
        Just("  capabilities = [\"pull\"]\n"),
        Just("skip_verify = true # x\noverride_path=true\n"),
        Just("header = { a = 'b' }\n"),
    ];
    let host = (comment.clone(), 0..6_usize, any::<bool>(), keys);
    (
        comment.clone(),
        root,
        prop::collection::vec(host, 0..5),
        comment,
    )
        .prop_map(|(head, root, hosts, tail)| {
            let mut text = format!("{head}{root}");
            let mut seen = Vec::new();
            for (comment, n, header, keys) in hosts {
                let name = [
                    "https://a",
                    "http://127.0.0.1:5000",
                    "http://127.0.0.1:5000/",
                    "https://b/c",
                    "x",
                    "https://d",
                ][n];
                if seen.contains(&name) {
                    continue;
                }
                seen.push(name);
                text.push_str(&format!("{comment}[host.\"{name}\"]\n{keys}"));
                if header && !keys.contains("header") {
                    text.push_str(&format!("  [host.\"{name}\".header]\n  x = ['y']\n"));
                }
            }
            text + &tail
        })
}

/// The hosts in the order in which containerd finds them.
fn hosts_in_order(text: &str) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.trim().strip_prefix("[host.") {
            let name = name
                .trim_start_matches(['\'', '"'])
                .split(['\'', '"'])
                .next()
                .unwrap_or_default();
            if hosts.last().is_none_or(|last| last != name) {
                hosts.push(name.to_owned());
            }
        }
    }
    hosts
}

proptest! {
    #[test]
    fn ours_come_first_and_nothing_else_changes(users in users_file()) {
        let text = prepended(&configuration(&["http://127.0.0.1:5000"]), "https://ghcr.io", &users)
            .expect("combined");
        let is_ours = |name: &String| name.trim_end_matches('/') == "http://127.0.0.1:5000";
        let hosts = hosts_in_order(&text);
        prop_assert!(is_ours(&hosts[0]), "{}", text);
        let before: Vec<_> = hosts_in_order(&users);
        prop_assert_eq!(
            hosts[1..].iter().filter(|h| !is_ours(h)).collect::<Vec<_>>(),
            before.iter().filter(|h| !is_ours(h)).collect::<Vec<_>>()
        );
        if !before.iter().any(is_ours) {
            // Every line is unchanged, with the mirror's lines between; blank ones excepted.
            let ours = render::table(&configuration(&[]), &"http://127.0.0.1:5000".parse().expect("sound"));
            let lines = |text: &str| text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect::<Vec<_>>();
            let mut rest = lines(&text);
            let at = rest.windows(3).position(|w| w == lines(&ours)).expect("ours is there as a whole");
            rest.drain(at..at + 3);
            prop_assert_eq!(rest, lines(&users));
        }
    }

    #[test]
    fn any_text_is_combined_or_refused(text in "[a-c\\[\\]\"'.=\n #{},h]{0,60}") {
        if let Err(fault) = prepended(&configuration(&["http://127.0.0.1:5000"]), "https://ghcr.io", &text) {
            prop_assert!(fault.position.is_some(), "{:?}", fault);
        }
    }
}
