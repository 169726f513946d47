//! Parses a request, and determines who sent it: the first step of a pull.
//!
//! Paths are those of the distribution specification ("Endpoints": end-1, end-2, end-3, end-8, end-12). The registry is
//! named by `?ns=` (containerd), by the `OCI-Namespace` header, or by the first part of the name (clients that send
//! neither). In that part a registry with a port is written `host_port`, since no reference has a colon in a name.

pub mod browser;
pub mod conditions;
pub mod follower;
pub mod host;
mod path;

use std::net::{IpAddr, SocketAddr};

use http::header::{CONTENT_LENGTH, RANGE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Method, Uri};
use oci::{Digest, Key, NameError, Origin, RangeError, Ranges, Reference, Registry, TagName};

use crate::List;
use crate::node_report::{DIGEST, MAX_NAMED, REPORT};
use crate::own_pull::OwnPull;
use browser::AskedByPage;
use follower::Follower;
use host::HostError;
use path::Page;

/// The name of the node whose mirror answers, on `/livez`.
pub const NODE: HeaderName = HeaderName::from_static("x-peili-node");
/// Names the router of an answering mirror. Nodes may share a name.
pub const PEER: HeaderName = HeaderName::from_static("x-peili-peer");
/// A header of a request for `/livez`, with the id of the asking node's router: the peer is to try whether it can connect
/// to that node.
pub const DIAL_BACK: HeaderName = HeaderName::from_static("x-peili-dial-back");
/// A header of the answer: the addresses of the asking node that cannot be connected to, separated by commas.
pub const UNREACHED: HeaderName = HeaderName::from_static("x-peili-unreached");
/// Marks a request of a mirror to a peer, which does not ask others. It grants no rights.
pub const MIRRORED: HeaderName = HeaderName::from_static("x-spegel-mirrored");
/// Names the registry, in requests and answers.
pub const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
/// Proves that a request comes from this node's containerd, whose hosts.toml contains the secret.
pub const NODE_SECRET: HeaderName = HeaderName::from_static("x-peili-node-secret");
/// The position of the requesting node in the flight of the object, [`ChainPosition`] as `<epoch>-<order>` in
/// hexadecimal: with it, growing objects are served too.
pub const FLIGHT: HeaderName = HeaderName::from_static("x-peili-flight");
/// A holder of the complete object that sends this many objects already, or more, answers 503, and the follower asks
/// another one.
pub const UPLOADS_BELOW: HeaderName = HeaderName::from_static("x-peili-uploads-below");

/// A header of the answer to a follower's HEAD: the bytes that are there, and the rate to all followers together, in
/// bytes per second.
pub const OFFSET: HeaderName = HeaderName::from_static("x-peili-offset");
pub const SENT: HeaderName = HeaderName::from_static("x-peili-sent");

/// Marks a request of the node's own client that only measures: content pulled for it is not stored, takes part in no
/// flight and is not among the last pulls, and the answer names its source in [`SOURCE`].
pub const MEASURED: HeaderName = HeaderName::from_static("x-peili-measured");
/// A header of the answer to a measured request: `local`, or the address of the peer that began to send.
pub const SOURCE: HeaderName = HeaderName::from_static("x-peili-source");
/// A header of an answer that sends the client to the registry: the reason, as in `peili_upstream_bytes_total`.
pub const REASON: HeaderName = HeaderName::from_static("x-peili-reason");
/// A header of a HEAD to a peer: the bytes that it delivered of this blob were not committed. The peer hashes its blob,
/// at most once a day.
pub const NOT_COMMITTED: HeaderName = HeaderName::from_static("x-peili-not-committed");

/// The path at which a peer sends useless bytes, to test a link.
pub const LINK_TEST: &str = "/link-test";

/// The parameter of a query that names the registry, as containerd sends it.
const NS: &str = "ns=";

/// The most bytes of a path with its query: far more than a name of 255, a digest of 135 and a registry of 255.
const MAX_URI: usize = 4096;

/// The address of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// This host, at any of its addresses.
    ThisHost,
    /// Another address; an IPv4 address is never a mapped one. A gateway has one address for all clients behind it.
    Other(IpAddr),
}

impl ClientAddress {
    /// The address of the client of a connection.
    pub fn of(remote: SocketAddr, local: SocketAddr) -> Self {
        if is_this_host(remote, local) {
            Self::ThisHost
        } else {
            Self::Other(remote.ip().to_canonical())
        }
    }
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// This node's own containerd, or a client on this node if no secret is set.
    Own,
    /// Another node's mirror. This is its own claim, which grants no rights.
    Peer,
    /// Any other client.
    Remote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Manifest,
    Blob,
}

/// The target of a request.
#[derive(Clone, Debug)]
pub struct Target {
    pub kind: Kind,
    /// `None`: the client names no registry. Then only digests are unambiguous.
    pub origin: Option<Origin>,
    pub reference: Reference,
    pub ranges: Option<Ranges>,
    pub caller: Caller,
    pub pull: OwnPull,
    /// `HEAD`: the answer has no body.
    pub head_only: bool,
    /// A peer that follows the flight of this object.
    pub follower: Option<Follower>,
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

    /// The tag in full. `None`: the reference is a digest.
    pub fn tag_name(&self) -> Option<TagName> {
        match (&self.reference, &self.origin) {
            (Reference::Tag(tag), Some(origin)) => Some(TagName {
                origin: origin.clone(),
                tag: tag.clone(),
            }),
            _ => None,
        }
    }

    /// The key that peers are asked for. `None`: a tag of an unnamed registry, which [`Reader::read`] refuses.
    pub fn key(&self) -> Option<Key> {
        match self.digest() {
            Some(digest) => Some(Key::Digest(digest.clone())),
            None => self.tag_name().map(Key::Tag),
        }
    }

    /// Continues as if only the head were requested: the answer will have no bytes of the object.
    pub fn ask_for_head_only(&mut self) {
        self.head_only = true;
        self.ranges = None;
    }
}

/// A parsed request.
#[derive(Clone, Debug)]
pub enum Request {
    /// `/v2/`: asks whether this registry supports the protocol.
    Base,
    Ready,
    Live,
    LinkTest,
    /// A request for this node's report, and its progress with these objects.
    Report(Vec<Digest>),
    Content(Target),
    List {
        /// `None`: the client names no registry.
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

/// The settings for parsing requests.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// The registry of names that come without one (`--default-registry`).
    pub default_registry: Option<Registry>,
}

impl Reader {
    /// Parses a request. [`crate::access`] determines its sender; until then it counts as a remote client's.
    ///
    /// # Errors
    /// The client's mistake.
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
            // Ranges are defined only for GET (RFC 9110, section 14.2), and no client resumes a manifest.
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
            follower: Follower::of(headers),
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

    /// The registry and the repository. If no parameter and no header names the registry, the first part of the name
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

/// The ranges of a request for a blob, unless they are meant for another object.
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

/// The digests in a query.
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

/// Whether the other end of a connection is on this host.
pub fn is_this_host(remote: SocketAddr, local: SocketAddr) -> bool {
    let plain = |address: SocketAddr| match address.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    };
    plain(remote).is_loopback() || plain(remote) == plain(local)
}

#[cfg(test)]
mod tests;
