//! Where content is named: registry, repository, tag, digest, and the names that containerd gives its images.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Digest, DigestError};

/// Names and hosts longer than this are refused. The specification asks clients to keep host and name within 255.
const MAX_NAME: usize = 255;
/// distribution-spec: a tag has at most 128 characters.
const MAX_TAG: usize = 128;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("registry {0:?} is not a host or host:port")]
    Registry(String),
    #[error("repository name {0:?} is not of the form a-z0-9, separated by . _ __ - or /")]
    Repository(String),
    #[error("tag {0:?} is not of the form [a-zA-Z0-9_][a-zA-Z0-9._-]{{0,127}}")]
    Tag(String),
    #[error("{0:?} has neither a tag nor a digest")]
    NeitherTagNorDigest(String),
    #[error("{0:?} names no registry; write it out, as in docker.io/library/…")]
    NoRegistry(String),
    #[error("registry {0:?} has to be http://host, https://host, or _default for all")]
    RegistryUrl(String),
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// What is quoted in an error of a name from the wire: enough to recognise it, not a megabyte.
fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

macro_rules! text {
    ($type:ident) => {
        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// A registry as containerd names it in `ns`: `host` or `host:port`; an IPv6 address stands in brackets.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Registry(Arc<str>);
text!(Registry);

impl FromStr for Registry {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fault = || NameError::Registry(excerpt(text));
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or_else(fault)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| fault())?;
            let port = match port {
                "" => None,
                _ => Some(port.strip_prefix(':').ok_or_else(fault)?),
            };
            (None, port)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (Some(host), Some(port)),
                None => (Some(text), None),
            }
        };
        let label = |l: &str| {
            !l.is_empty()
                && l.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !l.starts_with('-')
        };
        let good_host = host.is_none_or(|h| h.split('.').all(label));
        let good_port = port.is_none_or(|p| {
            p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|p| p != 0)
        });
        if text.len() > MAX_NAME || !good_host || !good_port {
            return Err(fault());
        }
        Ok(Self(text.into()))
    }
}

impl Registry {
    /// Whether a first path component is a registry rather than the start of a repository name: it has a dot or a
    /// port, or is `localhost`, as in Docker's reference grammar.
    pub fn looks_like(component: &str) -> bool {
        component == "localhost" || component.contains(['.', ':'])
    }

    /// The registry that a first path component `host_port` spells, as in `10.0.0.1_5000`: a component of a reference
    /// cannot hold a colon, so the last underscore stands for it. `None` if what follows is no port (1 to 65535, without
    /// leading zeros), or what precedes is no host.
    pub fn with_underscored_port(component: &str) -> Option<Self> {
        let (host, port) = component.rsplit_once('_')?;
        if host.contains(':') || port.starts_with('0') {
            return None;
        }
        format!("{host}:{port}").parse().ok()
    }
}

/// A repository name: `<name>` of the distribution specification.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);
text!(Repository);

impl FromStr for Repository {
    type Err = NameError;

    /// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`
    fn from_str(text: &str) -> Result<Self, NameError> {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let component = |c: &str| {
            let c = c.as_bytes();
            let ends = c.first().zip(c.last());
            ends.is_some_and(|(a, z)| alphanumeric(*a) && alphanumeric(*z))
                && c.iter().all(|b| alphanumeric(*b) || b"._-".contains(b))
                && c.split(|b| alphanumeric(*b)).all(|separator| {
                    matches!(separator, b"" | b"." | b"_" | b"__")
                        || separator.iter().all(|b| *b == b'-')
                })
        };
        if text.len() > MAX_NAME || !text.split('/').all(component) {
            return Err(NameError::Repository(excerpt(text)));
        }
        Ok(Self(text.into()))
    }
}

/// A tag of the distribution specification.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);
text!(Tag);

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let good = text.len() <= MAX_TAG
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if !good {
            return Err(NameError::Tag(excerpt(text)));
        }
        Ok(Self(text.into()))
    }
}

/// `<reference>` of the distribution specification: what stands behind `/manifests/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // No tag has a colon and every digest does.
        if text.contains(':') {
            Ok(Self::Digest(text.parse()?))
        } else {
            Ok(Self::Tag(text.parse()?))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Where content comes from: a repository of a registry.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    pub registry: Registry,
    pub repository: Repository,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `registry/repository:tag`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TagName {
    pub origin: Origin,
    pub tag: Tag,
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.origin, self.tag)
    }
}

impl fmt::Debug for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What peers are asked for: a digest, or a tag written out in full. Its text is what Spegel hashes into a routing key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    Digest(Digest),
    Tag(TagName),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Tag(name) => name.fmt(f),
        }
    }
}

/// The name of an image as containerd keeps it and people write it:
/// `registry/repository[:tag][@digest]`. No default registry and no `library/` is filled in: containerd stores the
/// full name, and a name without a registry says nothing about where its content belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub origin: Origin,
    pub tag: Option<Tag>,
    pub digest: Option<Digest>,
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (registry, rest) = rest
            .split_once('/')
            .filter(|(first, _)| Registry::looks_like(first))
            .ok_or_else(|| NameError::NoRegistry(excerpt(text)))?;
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.parse()?)),
            None => (rest, None),
        };
        if tag.is_none() && digest.is_none() {
            return Err(NameError::NeitherTagNorDigest(excerpt(text)));
        }
        let origin = Origin {
            registry: registry.parse()?,
            repository: repository.parse()?,
        };
        Ok(Self {
            origin,
            tag,
            digest,
        })
    }
}

impl Name {
    /// The tag in full, if the name has one.
    pub fn tag_name(&self) -> Option<TagName> {
        let tag = self.tag.clone()?;
        Some(TagName {
            origin: self.origin.clone(),
            tag,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

/// A registry as options name it: `https://ghcr.io`, `http://10.0.0.1:5000`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryUrl {
    pub scheme: Scheme,
    pub registry: Registry,
}

impl FromStr for RegistryUrl {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fault = || NameError::RegistryUrl(excerpt(text));
        let (scheme, rest) = text.split_once("://").ok_or_else(fault)?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(fault()),
        };
        let registry = rest.parse().map_err(|_| fault())?;
        Ok(Self { scheme, registry })
    }
}

impl fmt::Display for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ok<T: FromStr>(text: &str) -> bool {
        text.parse::<T>().is_ok()
    }

    #[test]
    fn registries() {
        for good in [
            "docker.io",
            "ghcr.io:443",
            "10.0.0.1:5000",
            "localhost",
            "[::1]:5000",
            "[fd00::1]",
            "a_b.local",
        ] {
            assert!(ok::<Registry>(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "a..b",
            "a/b",
            "a:",
            "a:0",
            "a:65536",
            "a:5000:1",
            "[::1",
            "[::1]5000",
            "[x]:1",
            "a b",
            "-a",
            "é.io",
            "a\n",
        ] {
            assert!(!ok::<Registry>(bad), "{bad:?}");
        }
        assert!(!ok::<Registry>(&"a".repeat(256)));
    }

    #[test]
    fn a_port_behind_an_underscore() {
        let spelled = |component| Registry::with_underscored_port(component);
        for (component, registry) in [
            ("10.0.0.1_5000", "10.0.0.1:5000"),
            ("registry.example_5000", "registry.example:5000"),
            ("localhost_1", "localhost:1"),
            ("kind-registry_65535", "kind-registry:65535"),
            ("a_b.local_80", "a_b.local:80"),
        ] {
            let registry = registry.parse().expect("a registry");
            assert_eq!(spelled(component), Some(registry), "{component}");
            let mirrored = format!("127.0.0.1:5000/{component}/app:1");
            assert!(ok::<Name>(&mirrored), "{component} in a reference");
        }
        for other in [
            "",
            "_",
            "a",
            "a_",
            "_5000",
            "a_b",
            "a_5000x",
            "a_+5",
            "a_0",
            "a_080",
            "a_65536",
            "a:1_5000",
            "[::1]_5000",
            "a..b_5000",
            "a/b_5000",
        ] {
            assert_eq!(spelled(other), None, "{other}");
        }
    }

    #[test]
    fn repositories() {
        for good in ["a", "library/nginx", "a.b_c__d-e---f/0", "x/y/z"] {
            assert!(ok::<Repository>(good), "{good}");
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a._b", ".a", "a.", "a/../b", "..",
            "a%2fb", "a\0", "é",
        ] {
            assert!(!ok::<Repository>(bad), "{bad:?}");
        }
    }

    #[test]
    fn tags_and_references() {
        assert!(ok::<Tag>("v1.0_x-Y") && ok::<Tag>("_") && ok::<Tag>(&"a".repeat(128)));
        for bad in ["", ".a", "-a", "a/b", "a b", &"a".repeat(129)] {
            assert!(!ok::<Tag>(bad), "{bad:?}");
        }
        assert!(matches!("latest".parse(), Ok(Reference::Tag(_))));
        assert!(matches!(
            Digest::sha256(b"").as_str().parse(),
            Ok(Reference::Digest(_))
        ));
        assert!("sha256:1".parse::<Reference>().is_err());
    }

    #[test]
    fn image_names() {
        let name: Name = "10.77.0.2:5000/lab/app:v1".parse().expect("well-formed");
        assert_eq!(name.origin.registry.as_str(), "10.77.0.2:5000");
        assert_eq!(
            name.tag_name().expect("tagged").to_string(),
            "10.77.0.2:5000/lab/app:v1"
        );
        let both: Name = format!("docker.io/library/a:1@{}", Digest::sha256(b""))
            .parse()
            .expect("well-formed");
        assert!(both.tag.is_some() && both.digest.is_some());
        for bad in [
            "sha256:0123",
            "nginx:latest",
            "library/nginx:1",
            "docker.io/library/nginx",
            "import-2026-01-01@x",
        ] {
            assert!(!ok::<Name>(bad), "{bad:?}");
        }
    }

    #[test]
    fn registry_urls() {
        for good in [
            "https://docker.io",
            "http://10.77.0.2:5000",
            "http://[::1]:5000",
        ] {
            assert_eq!(
                good.parse::<RegistryUrl>()
                    .expect("well-formed")
                    .to_string(),
                good
            );
        }
        for bad in [
            "docker.io",
            "ftp://a",
            "https://",
            "https://a/b",
            "https://a?x",
            "https://u@a",
            "https://a/",
        ] {
            assert!(!ok::<RegistryUrl>(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_comes_back_unchanged_and_stays_in_one_line(text in ".{0,300}") {
            let taken = [
                text.parse::<Registry>().map(|x| x.to_string()),
                text.parse::<Repository>().map(|x| x.to_string()),
                text.parse::<Tag>().map(|x| x.to_string()),
                text.parse::<Reference>().map(|x| x.to_string()),
            ];
            for name in taken.into_iter().flatten() {
                prop_assert_eq!(&name, &text);
                prop_assert!(!name.contains("..") || !name.contains('/'));
                prop_assert!(name.bytes().all(|b| b.is_ascii_graphic()));
            }
        }

        #[test]
        fn the_grammar_and_its_parser_agree(text in "[a-b.A_/-]{0,12}") {
            let grammar = regex_lite(&text);
            prop_assert_eq!(ok::<Repository>(&text), grammar);
        }
    }

    /// The specification's expression, by derivatives over the few characters that the property uses.
    fn regex_lite(text: &str) -> bool {
        text.split('/').all(|component| {
            let mut rest = component;
            loop {
                let word =
                    rest.trim_start_matches(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
                if word.len() == rest.len() {
                    return false;
                }
                rest = word;
                if rest.is_empty() {
                    return true;
                }
                rest = if let Some(r) = rest.strip_prefix('.') {
                    r
                } else if let Some(r) = rest.strip_prefix("__").or_else(|| rest.strip_prefix('_')) {
                    r
                } else {
                    let r = rest.trim_start_matches('-');
                    if r.len() == rest.len() {
                        return false;
                    }
                    r
                };
            }
        })
    }
}
