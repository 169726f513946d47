//! The text of a mirror's `hosts.toml`.
//!
//! The registries and targets in single quotes were parsed and contain none; nor do header values, which are base64 and
//! hexadecimal.

use oci::{RegistryUrl, Scheme};

use crate::recognise::MARKER;
use crate::{Configuration, Target};

/// The most time in which containerd tries to connect to a mirror before it asks the next host. On the same node a
/// connection takes far less than a millisecond, and each pull waits for this while the mirror is down.
pub(crate) const DIAL_TIMEOUT: &str = "'200ms'";

/// The first line of each file of Peili.
pub(crate) fn head() -> String {
    format!(
        "{MARKER}Do not edit: what stood here before is in _backup and comes back with `peili cleanup`.\n"
    )
}

/// A file for a registry for which the user has configured at most certificates.
///
/// `upstream`: the registry itself, unless containerd determines it. `root`: lines with its connection settings.
pub(crate) fn file(
    configuration: &Configuration,
    targets: &[&Target],
    upstream: Option<&RegistryUrl>,
    root: &str,
) -> String {
    let mut text = head();
    if let Some(upstream) = upstream {
        text.push_str(&format!("server = '{}'\n", server(upstream)));
    }
    text.push_str(root);
    for target in targets {
        text.push('\n');
        text.push_str(&table(configuration, target));
    }
    text
}

/// The URL of the registry with this name: the host of Docker Hub's images differs from its name.
pub(crate) fn server(upstream: &RegistryUrl) -> String {
    match (upstream.scheme, upstream.registry.as_str()) {
        (Scheme::Https, "docker.io") => "https://registry-1.docker.io".to_owned(),
        _ => upstream.to_string(),
    }
}

/// The capabilities of a target, in TOML.
pub(crate) fn capabilities(configuration: &Configuration) -> &'static str {
    if configuration.resolve_tags {
        "['pull', 'resolve']"
    } else {
        "['pull']"
    }
}

/// The table of one target, and that of its headers.
pub(crate) fn table(configuration: &Configuration, target: &Target) -> String {
    let capabilities = capabilities(configuration);
    let mut text = format!(
        "[host.'{target}']\ncapabilities = {capabilities}\ndial_timeout = {DIAL_TIMEOUT}\n"
    );
    let headers = configuration.headers(target);
    if !headers.is_empty() {
        text.push_str(&format!("\n[host.'{target}'.header]\n"));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name} = '{value}'\n"));
    }
    text
}
