//! Determines how a mirror's table would change the meaning of the user's file.
//!
//! containerd 1.6 and 1.7 treat a `hosts.toml` without a `[host]` table as an error, and continue as without a file:
//! they ask the registry itself, over https, with the certificates of Docker's pattern in the folder (containerd,
//! `getSortedHosts` and `loadHostDir` in `hosts.go`). containerd 2 reads such a file. With a mirror's table in it, the
//! older versions read it too. That must not change how the registry is reached: for example, a `ca` that cannot be
//! read fails every pull.
//!
//! With a target whose name is an IPv6 address it is the reverse: the older versions can read nothing of the file,
//! including the user's hosts.
//!
//! The version is unknown when the files are written. So they must mean the same to all versions.

use std::path::Path;

use oci::Registry;
use toml_edit::{Document, Item};

use crate::Target;
use crate::merge::{TextFault, parse, position};
use crate::tree::{Entry, Node};

/// Settings of the registry itself that change how it is reached, whatever their value.
const OTHERS: [&str; 4] = ["client", "header", "override_path", "capabilities"];
const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Refuses a file whose meaning for any containerd would change with tables for these targets.
///
/// `registry`: the one that this folder is for, `None` for `_default`. Files outside of the folder are not checked:
/// containerd may see other ones.
pub(crate) fn check(
    file: &[u8],
    entry: &Entry,
    registry: Option<&Registry>,
    targets: &[&Target],
) -> Result<(), TextFault> {
    let (text, document) = parse(file)?;
    let is_read_by_all = document.contains_key("host");
    let unreadable = targets.iter().find(|target| target.is_ipv6_literal());
    let (key, message) = match unreadable {
        Some(target) if is_read_by_all => (
            "host",
            format!(
                "has a [host] table, and containerd 1.6 and 1.7 could read nothing of the file with {target} in it; give \
                 --mirror-targets a name that resolves to the address"
            ),
        ),
        None if !is_read_by_all => match awakened(&document, entry, registry) {
            None => return Ok(()),
            Some(key) => (key, come_to_life(key)),
        },
        _ => return Ok(()),
    };
    let span = document.as_table().key(key).and_then(toml_edit::Key::span);
    Err(TextFault {
        position: span.map(|span| position(text, span.start)),
        message,
    })
}

fn come_to_life(key: &str) -> String {
    let what = if key == CERTIFICATES {
        "end the use of the certificates beside it".to_owned()
    } else {
        format!("bring its `{key}` into force")
    };
    format!(
        "has no [host] table, so containerd 1.6 and 1.7 ignore it, and the mirror's table would {what} there; add a \
         line [host] at its end if it is to be in force, or remove the file"
    )
}

/// Names the files of Docker's pattern, which are not in the text.
const CERTIFICATES: &str = "*.crt";

/// The first of the settings whose meaning would change.
fn awakened<'a>(
    document: &'a Document<&str>,
    entry: &Entry,
    registry: Option<&Registry>,
) -> Option<&'a str> {
    let changes = |(key, item): &(&str, &Item)| match *key {
        "server" => !item
            .as_str()
            .is_some_and(|server| is_default(server, registry)),
        "skip_verify" => item.as_bool() != Some(false),
        "ca" => !authorities(item)
            .is_some_and(|names| names.iter().all(|name| is_certificate(entry, name))),
        other => OTHERS.contains(&other),
    };
    if let Some((key, _)) = document.as_table().iter().find(changes) {
        return Some(key);
    }
    let named = document.get("ca").and_then(authorities).unwrap_or_default();
    let unnamed = entry
        .keys()
        .filter_map(|path| path.to_str())
        .any(|name| name.ends_with(".cert") || (name.ends_with(".crt") && !named.contains(&name)));
    unnamed.then_some(CERTIFICATES)
}

/// Whether containerd asks this server for images of the registry by default.
fn is_default(server: &str, registry: Option<&Registry>) -> bool {
    let Some(registry) = registry.map(Registry::as_str) else {
        return false;
    };
    // containerd tries localhost over https, unverified, and over http.
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host
        .parse::<std::net::IpAddr>()
        .is_ok_and(|ip| ip.is_loopback());
    if host == "localhost" || is_loopback {
        return false;
    }
    let default = match registry {
        "docker.io" => "registry-1.docker.io",
        other => other,
    };
    let server = server.strip_prefix("https://").unwrap_or(server);
    let server = server.trim_end_matches('/');
    server.strip_suffix("/v2").unwrap_or(server) == default
}

/// The elements of `ca`, one text or a list of them.
fn authorities(item: &Item) -> Option<Vec<&str>> {
    match item.as_str() {
        Some(one) => Some(vec![one]),
        None => item
            .as_array()?
            .iter()
            .map(toml_edit::Value::as_str)
            .collect(),
    }
}

fn is_certificate(entry: &Entry, name: &str) -> bool {
    match entry.get(Path::new(name)) {
        Some(Node::File { bytes, .. }) => bytes.windows(PEM.len()).any(|window| window == PEM),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::tree::Meta;

    fn entry(files: &[(&str, &str)]) -> Entry {
        let meta = Meta {
            mode: 0o644,
            uid: 0,
            gid: 0,
        };
        let file = |(name, text): &(&str, &str)| {
            let bytes = text.as_bytes().to_vec();
            (PathBuf::from(name), Node::File { bytes, meta })
        };
        files.iter().map(file).collect()
    }

    fn refused(text: &str, files: &[(&str, &str)], registry: &str) -> Option<String> {
        refused_with("http://127.0.0.1:5000", text, files, registry)
    }

    fn refused_with(
        target: &str,
        text: &str,
        files: &[(&str, &str)],
        registry: &str,
    ) -> Option<String> {
        let registry: Option<Registry> = registry.parse().ok();
        let target = target.parse().expect("well-formed");
        let checked = check(
            text.as_bytes(),
            &entry(files),
            registry.as_ref(),
            &[&target],
        );
        checked.err().map(|fault| fault.message)
    }

    #[test]
    fn what_means_the_same_in_both_readings_is_taken() {
        let pem = [("up.crt", "x\n-----BEGIN CERTIFICATE-----\n")];
        for (text, files, registry) in [
            ("# nothing\n", &[][..], "a.io"),
            ("server = 'https://a.io'\n", &[], "a.io"),
            ("server = 'a.io/v2/'\n", &[], "a.io"),
            ("server = 'https://a.io:5000/'\n", &[], "a.io:5000"),
            (
                "server = \"https://registry-1.docker.io\"\n",
                &[],
                "docker.io",
            ),
            (
                "skip_verify = false\ndial_timeout = '1s'\nown = 1\n",
                &[],
                "a.io",
            ),
            ("ca = 'up.crt'\n", &pem, "a.io"),
            ("ca = ['up.crt']\n", &pem, ""),
            (
                "server = 'https://other'\nca = '/nowhere'\n[host.'https://b']\n",
                &[],
                "a.io",
            ),
            ("server = 'https://other'\n[host]\n", &[], "a.io"),
        ] {
            assert_eq!(refused(text, files, registry), None, "{text}");
        }
    }

    #[test]
    fn what_would_come_to_life_is_refused_with_the_way_out() {
        let pem = [("up.crt", "-----BEGIN CERTIFICATE-----\n")];
        for (text, files, registry, key) in [
            ("server = 'https://b.io'\n", &[][..], "a.io", "`server`"),
            ("server = 'http://a.io'\n", &[], "a.io", "`server`"),
            (
                "server = 'https://docker.io'\n",
                &[],
                "docker.io",
                "`server`",
            ),
            (
                "server = 'https://localhost:5000'\n",
                &[],
                "localhost:5000",
                "`server`",
            ),
            (
                "server = 'https://[::1]:5000'\n",
                &[],
                "[::1]:5000",
                "`server`",
            ),
            ("server = 'https://a.io'\n", &[], "", "`server`"),
            ("ca = 'gone.crt'\n", &[], "a.io", "`ca`"),
            ("ca = '/etc/ssl/office.pem'\n", &[], "a.io", "`ca`"),
            ("ca = ['up.crt', 'gone.crt']\n", &pem, "a.io", "`ca`"),
            ("ca = 'up.crt'\n", &[("up.crt", "empty")], "a.io", "`ca`"),
            ("skip_verify = true\n", &[], "a.io", "`skip_verify`"),
            ("client = 'x.pem'\n", &[], "a.io", "`client`"),
            ("capabilities = ['pull']\n", &[], "a.io", "`capabilities`"),
            ("override_path = true\n", &[], "a.io", "`override_path`"),
            ("[header]\nx = 'y'\n", &[], "a.io", "`header`"),
            ("# nothing\n", &pem, "a.io", "certificates beside it"),
            (
                "server = 'https://a.io'\n",
                &[("me.cert", "")],
                "a.io",
                "certificates beside it",
            ),
        ] {
            let message = refused(text, files, registry).expect(text);
            assert!(
                message.contains(key) && message.contains("[host] at its end"),
                "{text}: {message}"
            );
        }
    }

    #[test]
    fn what_an_ipv6_target_would_hide_is_refused() {
        let target = "http://[fd00::1]:5000";
        let dormant = "server = 'https://b.io'\nca = '/nowhere'\n";
        assert_eq!(refused_with(target, dormant, &[], "a.io"), None);
        let live = "server = 'https://a.io'\n[host.'https://b.io']\n";
        let message = refused_with(target, live, &[], "a.io").expect("hidden");
        assert!(
            message.contains(target) && message.contains("a name"),
            "{message}"
        );
    }
}
