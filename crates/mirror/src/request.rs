//! Who asks, and for what: the first step of a pull.
//!
//! Paths are those of the distribution specification ("Endpoints": end-1, end-2, end-3, end-8, end-12), with the registry
//! named by `?ns=` (containerd), by the `OCI-Namespace` header, or as the first part of the name (clients that send
//! neither). There a registry with a port is written `host_port`, since no reference has a colon in a name.

pub mod browser;
pub mod conditions;
pub mod host;
mod path;

use std::net::{IpAddr, SocketAddr};

use http::header::{CONTENT_LENGTH, RANGE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Method, Uri};
use oci::{Digest, Key, NameError, Origin, RangeError, Ranges, Reference, Registry, TagName};

use crate::node_report::{DIGEST, MAX_NAMED, REPORT};
use crate::own_pull::OwnPull;
use crate::{ChainPosition, List};
use browser::AskedByPage;
use host::HostError;
use path::Page;

/// The name of the node whose mirror answers, on `/livez`.
pub const NODE: HeaderName = HeaderName::from_static("x-peili-node");
/// Marks a request that a mirror sends to a peer: it goes no further. It grants nothing.
pub const MIRRORED: HeaderName = HeaderName::from_static("x-spegel-mirrored");
/// Names the registry, in requests and answers.
pub const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
/// Proves that a request comes from this node's containerd, whose hosts.toml carries the secret.
pub const NODE_SECRET: HeaderName = HeaderName::from_static("x-peili-node-secret");
/// The asker's position in the flight of what it asks a peer for, [`ChainPosition`] as `<epoch>-<order>` in hexadecimal: what is
/// still growing is served to it too.
pub const FLIGHT: HeaderName = HeaderName::from_static("x-peili-flight");

/// In the answer to a follower's HEAD: the bytes that are there, and what this node sends to all followers together, in
/// bytes per second.
pub const OFFSET: HeaderName = HeaderName::from_static("x-peili-offset");
pub const SENT: HeaderName = HeaderName::from_static("x-peili-sent");

/// Marks a request of the node's own client that measures and keeps nothing: what is pulled for it is not stored, takes part in no
/// flight and is not among the last pulls, and the answer names its source in [`SOURCE`].
pub const MEASURED: HeaderName = HeaderName::from_static("x-peili-measured");
/// In the answer to a measured request: `local`, or the address of the peer that began to send.
pub const SOURCE: HeaderName = HeaderName::from_static("x-peili-source");
/// In an answer that sends the client to the registry: why, in the words of `peili_upstream_bytes_total`.
pub const REASON: HeaderName = HeaderName::from_static("x-peili-reason");
/// In a HEAD to a peer: what it delivered of this blob was not committed. The peer hashes its blob, once a day at most.
pub const NOT_COMMITTED: HeaderName = HeaderName::from_static("x-peili-not-committed");

/// Where a peer is asked for bytes that nobody needs, to test a link.
pub const LINK_TEST: &str = "/link-test";

/// The parameter of a query that names the registry, as containerd sends it.
const NS: &str = "ns=";

/// Longer paths with their queries are refused: a name of 255, a digest of 135 and a registry of 255 fit many times.
const MAX_URI: usize = 4096;

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// This host, by whichever of its addresses.
    ThisHost,
    /// Any other, an IPv4 address never as a mapped one. A gateway stands for all clients behind it.
    Other(IpAddr),
}

impl ClientAddress {
    /// Of the client of a connection.
    pub fn of(remote: SocketAddr, local: SocketAddr) -> Self {
        if is_this_host(remote, local) {
            Self::ThisHost
        } else {
            Self::Other(remote.ip().to_canonical())
        }
    }
}

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// This node's own containerd, or a client on this node where no secret is set up.
    Own,
    /// Another node's mirror. It says so itself; nothing is granted for it.
    Peer,
    /// Anybody else.
    Remote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Manifest,
    Blob,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Target {
    pub kind: Kind,
    /// `None` where the client names no registry: then only digests can be told apart.
    pub origin: Option<Origin>,
    pub reference: Reference,
    pub ranges: Option<Ranges>,
    pub caller: Caller,
    pub pull: OwnPull,
    /// `HEAD`: the answer has no body.
    pub head_only: bool,
    /// Of a peer that follows the flight of this object; `None` too where what it says of it is not well-formed.
    pub position: Option<ChainPosition>,
}

impl Target {
    pub fn fills_ingest(&self) -> bool {
        self.pull.delivery.is_some()
    }

    /// Whether the answer may end without a byte, so that containerd requeues the request.
    pub fn may_requeue(&self) -> bool {
        self.pull.attempts.as_ref().is_some_and(|a| a.may_requeue())
    }

    /// Whether peers have failed so often that the client should go upstream.
    pub fn are_attempts_spent(&self) -> bool {
        self.pull.attempts.as_ref().is_some_and(|a| a.are_spent())
    }

    pub fn digest(&self) -> Option<&Digest> {
        match &self.reference {
            Reference::Digest(digest) => Some(digest),
            Reference::Tag(_) => None,
        }
    }

    /// The tag in full; `None` for a digest.
    pub fn tag_name(&self) -> Option<TagName> {
        match (&self.reference, &self.origin) {
            (Reference::Tag(tag), Some(origin)) => Some(TagName {
                origin: origin.clone(),
                tag: tag.clone(),
            }),
            _ => None,
        }
    }

    /// What peers are asked for. `None` for a tag of an unnamed registry, which [`Reader::read`] lets nobody ask for.
    pub fn key(&self) -> Option<Key> {
        match self.digest() {
            Some(digest) => Some(Key::Digest(digest.clone())),
            None => self.tag_name().map(Key::Tag),
        }
    }

    /// Goes on as if the head alone had been asked for: the answer will have no bytes of the object.
    pub fn ask_for_head_only(&mut self) {
        self.head_only = true;
        self.ranges = None;
    }
}

/// A request, understood.
#[derive(Clone, Debug)]
pub enum Request {
    /// `/v2/`: does this registry speak the protocol?
    Base,
    Ready,
    Live,
    LinkTest,
    /// What this node does, and how far it is with these objects.
    Report(Vec<Digest>),
    Content(Target),
    List {
        /// `None` where the client names no registry.
        origin: Option<Origin>,
        list: List,
        /// The query without `ns`, as the client wrote it.
        query: String,
    },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    #[error("{0} is not supported; a mirror answers GET and HEAD")]
    Method(Method),
    #[error("a GET or HEAD has no body")]
    Body,
    #[error("the URI has more than {MAX_URI} bytes")]
    UriTooLong,
    #[error("no such page; ask for /v2/<name>/manifests/<reference> or /v2/<name>/blobs/<digest>")]
    UnknownPath,
    #[error("the path is not UTF-8 once its percent-encoding is undone")]
    PathEncoding,
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Page(#[from] AskedByPage),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("a blob is asked for by its digest")]
    BlobByTag,
    #[error("a tag needs its registry: add ?ns=<registry>, or ask for /v2/<registry>/<name>/…")]
    TagWithoutRegistry,
    #[error(transparent)]
    Range(#[from] RangeError),
}

/// What a request is read against.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// The registry of names that come without one (`--default-registry`).
    pub default_registry: Option<Registry>,
}

impl Reader {
    /// Reads a request. Who sent it is for [`crate::access`] to say; until then it is a remote client's.
    ///
    /// # Errors
    /// Whatever the client got wrong.
    pub fn read(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Request, RequestError> {
        let head_only = match *method {
            Method::GET => false,
            Method::HEAD => true,
            _ => return Err(RequestError::Method(method.clone())),
        };
        let has_length = headers
            .get(CONTENT_LENGTH)
            .is_some_and(|length| length != "0");
        if has_length || headers.contains_key(TRANSFER_ENCODING) {
            return Err(RequestError::Body);
        }
        if uri.path().len() + uri.query().map_or(0, str::len) > MAX_URI {
            return Err(RequestError::UriTooLong);
        }
        let path = path::decode(uri.path())?;
        match &*path {
            "/v2" | "/v2/" => return Ok(Request::Base),
            "/readyz" => return Ok(Request::Ready),
            "/livez" => return Ok(Request::Live),
            LINK_TEST => return Ok(Request::LinkTest),
            REPORT => return Ok(Request::Report(named(uri.query())?)),
            _ => {}
        }
        let path = path.strip_prefix("/v2/").ok_or(RequestError::UnknownPath)?;
        let (name, page) = path::split(path).ok_or(RequestError::UnknownPath)?;
        let (kind, reference) = match page {
            Page::Manifest(reference) => (Kind::Manifest, reference.parse()?),
            Page::Blob(digest) if !digest.contains(':') => return Err(RequestError::BlobByTag),
            Page::Blob(digest) => (Kind::Blob, Reference::Digest(parse_digest(digest)?)),
            Page::Tags => return self.list(name, List::Tags, uri, headers),
            Page::Referrers(digest) => {
                let list = List::Referrers(parse_digest(digest)?);
                return self.list(name, list, uri, headers);
            }
        };
        let origin = self.origin(name, uri.query(), headers)?;
        if matches!(reference, Reference::Tag(_)) && origin.is_none() {
            return Err(RequestError::TagWithoutRegistry);
        }
        let ranges = match &reference {
            // Ranges are defined for GET alone (RFC 9110, 14.2), and nobody resumes a manifest.
            Reference::Digest(digest) if kind == Kind::Blob && !head_only => {
                ranges(headers, digest)?
            }
            _ => None,
        };
        Ok(Request::Content(Target {
            kind,
            origin,
            reference,
            ranges,
            caller: Caller::Remote,
            pull: OwnPull::default(),
            head_only,
            position: headers
                .get(FLIGHT)
                .and_then(|position| ChainPosition::parse(position.to_str().ok()?)),
        }))
    }

    fn list(
        &self,
        name: &str,
        list: List,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Request, RequestError> {
        let pairs = uri.query().unwrap_or_default().split('&');
        let others: Vec<_> = pairs.filter(|pair| !pair.starts_with(NS)).collect();
        Ok(Request::List {
            origin: self.origin(name, uri.query(), headers)?,
            list,
            query: others.join("&"),
        })
    }

    /// The registry and the repository. Where no parameter and no header names the registry, the first part of the name
    /// does, if it looks like one or ends in an underscore and a port.
    fn origin(
        &self,
        name: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Option<Origin>, RequestError> {
        let header = headers.get(NAMESPACE).and_then(|value| value.to_str().ok());
        let named = namespace(query)?.or_else(|| header.map(ToOwned::to_owned));
        if let Some(registry) = named.filter(|n| !n.is_empty()) {
            let (registry, repository) = (registry.parse()?, name.parse()?);
            return Ok(Some(Origin {
                registry,
                repository,
            }));
        }
        if let Some((first, rest)) = name.split_once('/') {
            let registry = match Registry::with_underscored_port(first) {
                None if Registry::looks_like(first) => Some(first.parse()?),
                with_port => with_port,
            };
            if let Some(registry) = registry {
                let repository = rest.parse()?;
                return Ok(Some(Origin {
                    registry,
                    repository,
                }));
            }
        }
        let repository = name.parse()?;
        let registry = self.default_registry.clone();
        Ok(registry.map(|registry| Origin {
            registry,
            repository,
        }))
    }
}

/// The ranges that a request for a blob asks for, unless they are meant for another object.
fn ranges(headers: &HeaderMap, digest: &Digest) -> Result<Option<Ranges>, RangeError> {
    match headers.get(RANGE) {
        Some(range) if conditions::range_counts(headers, digest) => {
            let range = range.to_str().map(Ranges::parse);
            range.unwrap_or_else(|_| Ok(Some(Ranges::outside())))
        }
        _ => Ok(None),
    }
}

fn parse_digest(text: &str) -> Result<Digest, NameError> {
    text.parse().map_err(NameError::Digest)
}

/// The digests that a query names.
fn named(query: Option<&str>) -> Result<Vec<Digest>, NameError> {
    let pairs = query.unwrap_or_default().split('&');
    let digests = pairs.filter_map(|pair| pair.strip_prefix(DIGEST));
    digests.take(MAX_NAMED).map(parse_digest).collect()
}

/// The value of `ns` in a query.
fn namespace(query: Option<&str>) -> Result<Option<String>, NameError> {
    let pairs = query.unwrap_or_default().split('&');
    let Some(value) = pairs.filter_map(|pair| pair.strip_prefix(NS)).next() else {
        return Ok(None);
    };
    let decoded = percent_encoding::percent_decode_str(value).decode_utf8();
    let decoded = decoded.map_err(|_| NameError::Registry(value.chars().take(64).collect()))?;
    Ok(Some(decoded.into_owned()))
}

/// Whether the other end of a connection is on this very host.
pub fn is_this_host(remote: SocketAddr, local: SocketAddr) -> bool {
    let plain = |address: SocketAddr| match address.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    };
    plain(remote).is_loopback() || plain(remote) == plain(local)
}

#[cfg(test)]
mod tests;
