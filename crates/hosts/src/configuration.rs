//! The desired configuration: which registries, through which mirrors, with which headers.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use oci::{NameError, RegistryUrl};

use crate::{ConfigPath, HostsError, NODE_SECRET_HEADER, NodeSecret};

/// The folder that containerd reads for hosts without a folder of their own.
pub(crate) const DEFAULT_FOLDER: &str = "_default";

/// The input of `peili configuration`.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// `--containerd-registry-config-path`. If none of its folders exists, the first is created.
    pub path: ConfigPath,
    /// `--mirrored-registries`. Empty: all registries, as with [`Mirrored::Default`].
    pub registries: Vec<Mirrored>,
    /// `--mirror-targets`, in the order in which containerd asks them. The first is this node's own mirror.
    pub targets: Vec<Target>,
    /// `--resolve-tags`: whether the mirrors are also asked for tags, not only for digests.
    pub resolve_tags: bool,
    /// `--prepend-existing`: keep the user's hosts for the named registries, and in `_default`, after the mirror's. In
    /// folders that are mirrored only because of `_default` they are always kept.
    pub prepend_existing: bool,
    /// The credentials for the mirrors of this cluster (`Authorization`). Sent to the first target and to other ports
    /// of the same host, as in Spegel's releases; never to a later registry elsewhere.
    pub credentials: Option<Credentials>,
    /// The secret by which this node's mirror recognises its own containerd. Sent only to the first target.
    pub node_secret: Option<NodeSecret>,
}

impl Configuration {
    /// The targets without duplicates: TOML does not allow a table twice.
    pub(crate) fn distinct_targets(&self) -> Result<Vec<&Target>, HostsError> {
        let mut distinct: Vec<&Target> = Vec::new();
        for target in &self.targets {
            if !distinct.contains(&target) {
                distinct.push(target);
            }
        }
        if distinct.is_empty() {
            return Err(HostsError::NoTarget);
        }
        Ok(distinct)
    }

    /// The headers that containerd sends to this target.
    pub(crate) fn headers(&self, target: &Target) -> Vec<(&'static str, &str)> {
        let mut headers = Vec::new();
        let Some(own) = self.targets.first() else {
            return headers;
        };
        if let Some(credentials) = &self.credentials
            && own.host() == target.host()
        {
            headers.push(("Authorization", credentials.header_value()));
        }
        if let Some(secret) = &self.node_secret
            && own == target
        {
            headers.push((NODE_SECRET_HEADER, secret.header_value()));
        }
        headers
    }

    /// Whether the written files contain anything that must not be readable by all users of the node.
    pub(crate) fn is_confidential(&self) -> bool {
        self.credentials.is_some() || self.node_secret.is_some()
    }
}

/// An element of `--mirrored-registries`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Mirrored {
    /// `_default` or `*`: every host. In the user's folders of hosts, the mirrors are put before the existing hosts.
    Default,
    Registry(RegistryUrl),
}

impl Mirrored {
    /// The registry. `None`: all registries.
    pub(crate) fn registry(&self) -> Option<&RegistryUrl> {
        match self {
            Self::Default => None,
            Self::Registry(url) => Some(url),
        }
    }
}

impl FromStr for Mirrored {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text {
            DEFAULT_FOLDER | "*" => Ok(Self::Default),
            _ => text.parse().map(Self::Registry),
        }
    }
}

/// An element of `--mirror-targets`: `http://host:port` or `https://host[:port]`, without a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target(RegistryUrl);

impl Target {
    /// The host without the port; an IPv6 address is in brackets.
    pub(crate) fn host(&self) -> &str {
        let name = self.0.registry.as_str();
        let end = if self.is_ipv6_literal() {
            name.find(']').map(|bracket| bracket + 1)
        } else {
            name.find(':')
        };
        &name[..end.unwrap_or(name.len())]
    }

    pub(crate) fn is_ipv6_literal(&self) -> bool {
        self.0.registry.as_str().starts_with('[')
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("mirror target {0:?} has to be http://host:port or https://host[:port], without a path")]
pub struct TargetError(String);

impl FromStr for Target {
    type Err = TargetError;

    /// Parses a target. An IPv6 address may omit its brackets if a port follows it, as in `http://$(NODE_IP):30020`.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let bare_ipv6 = text.split_once("://").and_then(|(scheme, rest)| {
            let (address, port) = rest.rsplit_once(':')?;
            let bare = address.contains(':') && !address.contains('[');
            bare.then(|| format!("{scheme}://[{address}]:{port}"))
        });
        let parsed = bare_ipv6.as_deref().unwrap_or(text).parse();
        parsed
            .map(Self)
            .map_err(|_| TargetError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A user name and password for the mirror, as the header with them (RFC 7617). Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialsError {
    #[error(
        "the mirror's user name and password are both empty; fill in the files that they are read from"
    )]
    Empty,
    #[error(
        "the mirror's user name has a colon, which basic authentication cannot carry (RFC 7617); change it"
    )]
    Colon,
}

impl Credentials {
    /// # Errors
    /// Both are empty, or the user name has a colon.
    pub fn new(username: &str, password: &str) -> Result<Self, CredentialsError> {
        if username.is_empty() && password.is_empty() {
            return Err(CredentialsError::Empty);
        }
        if username.contains(':') {
            return Err(CredentialsError::Colon);
        }
        let encoded = BASE64.encode(format!("{username}:{password}"));
        Ok(Self(format!("Basic {encoded}")))
    }

    /// The value of `Authorization`.
    pub fn header_value(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        text.parse().expect("well-formed")
    }

    #[test]
    fn targets_take_ipv6_with_and_without_brackets() {
        for (given, read, host) in [
            (
                "http://127.0.0.1:5000",
                "http://127.0.0.1:5000",
                "127.0.0.1",
            ),
            (
                "https://harbor.example",
                "https://harbor.example",
                "harbor.example",
            ),
            (
                "http://fc00:f853:ccd:e793::2:30020",
                "http://[fc00:f853:ccd:e793::2]:30020",
                "[fc00:f853:ccd:e793::2]",
            ),
            (
                "http://[fd00::1]:30020",
                "http://[fd00::1]:30020",
                "[fd00::1]",
            ),
            ("http://[fd00::1]", "http://[fd00::1]", "[fd00::1]"),
        ] {
            assert_eq!(target(given).to_string(), read);
            assert_eq!(target(given).host(), host);
        }
        for bad in [
            "",
            "_default",
            "127.0.0.1:5000",
            "http://a/b",
            "http://a:x",
            "http://fd00::1:abcd",
            "http://a'b",
        ] {
            let fault = bad.parse::<Target>().expect_err(bad).to_string();
            assert!(fault.contains(&format!("{bad:?}")), "{fault}");
        }
    }

    #[test]
    fn mirrored_registries() {
        assert_eq!("*".parse(), Ok(Mirrored::Default));
        assert_eq!("_default".parse(), Ok(Mirrored::Default));
        assert!(matches!(
            "https://ghcr.io".parse(),
            Ok(Mirrored::Registry(_))
        ));
        assert!("ghcr.io".parse::<Mirrored>().is_err());
    }

    #[test]
    fn credentials_are_encoded_and_not_printed() {
        let credentials = Credentials::new("hello", "wor:ld").expect("sound");
        assert_eq!(credentials.header_value(), "Basic aGVsbG86d29yOmxk");
        assert_eq!(format!("{credentials:?}"), "Credentials(…)");
        assert_eq!(Credentials::new("a:b", "c"), Err(CredentialsError::Colon));
        assert_eq!(Credentials::new("", ""), Err(CredentialsError::Empty));
    }
}
