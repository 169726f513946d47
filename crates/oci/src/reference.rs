//! Names of content: registry, repository, tag, digest, and containerd's names of images.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Digest, DigestError};

/// The most bytes of names and hosts. The specification asks clients to limit host and name to 255.
const MAX_NAME: usize = 255;
/// The most characters of a tag (distribution-spec).
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

/// The part of an invalid name that an error quotes: enough to recognise it, not a megabyte.
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

/// A registry as in containerd's `ns`: `host` or `host:port`, with an IPv6 address in brackets.
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
    /// Whether a first path component is a registry and not the start of a repository name: it contains a dot or a
    /// port, or is `localhost`, as in Docker's reference grammar.
    pub fn looks_like(component: &str) -> bool {
        component == "localhost" || component.contains(['.', ':'])
    }

    /// The registry in a first path component `host_port`, such as `10.0.0.1_5000`: a component of a reference cannot
    /// contain a colon, so the last underscore replaces it. `None`: the rest after it is not a port (1 to 65535,
    /// without leading zeros), or the part before it is not a host.
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

    /// Parses `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`.
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

/// `<reference>` of the distribution specification: the part after `/manifests/`.
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

/// The origin of content: a repository of a registry.
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

/// A tag in full: `registry/repository:tag`.
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

/// The key that peers are asked for: a digest, or a tag in full. Spegel hashes its text into a routing key.
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

/// The name of an image in containerd and for people: `registry/repository[:tag][@digest]`. No default registry and no
/// `library/` is added: containerd stores the full name, and a name without a registry does not show the origin of its
/// content.
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

/// A registry in options: `https://ghcr.io`, `http://10.0.0.1:5000`.
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
mod tests;
