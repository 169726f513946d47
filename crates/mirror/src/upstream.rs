//! The registries of images: the trait through which a mirror that fetches for itself asks them.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use http::HeaderValue;
use oci::{Digest, MediaType, Origin, Ranges, Reference, Tag};

use crate::Visibility;

/// The `Authorization` header of a client. Its bytes are never printed.
#[derive(Clone)]
pub struct ClientCredentials(HeaderValue);

impl ClientCredentials {
    pub fn new(mut header: HeaderValue) -> Self {
        header.set_sensitive(true);
        Self(header)
    }

    pub fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A repository, and the credentials for it.
#[derive(Clone, Debug)]
pub struct UpstreamRepository {
    pub origin: Origin,
    /// A client's own. They are sent only to the https origin of the registry, in place of this node's. `None`: the
    /// repository is asked anonymously, then with this node's credentials.
    pub credentials: Option<ClientCredentials>,
}

impl UpstreamRepository {
    /// A repository for which no client has given credentials.
    pub fn anonymous(origin: &Origin) -> Self {
        Self {
            origin: origin.clone(),
            credentials: None,
        }
    }
}

/// The target of a tag.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub digest: Digest,
    /// The manifest itself, if the answer needed a GET.
    pub manifest: Option<UpstreamManifest>,
}

/// Upstream's description of a manifest, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamHead {
    /// `None`: upstream does not name it. For a request by digest, that digest.
    pub digest: Option<Digest>,
    /// The size in bytes, if upstream reports it.
    pub size: Option<u64>,
    pub media_type: Option<MediaType>,
    /// Private if the answer needed credentials.
    pub visibility: Visibility,
}

/// A manifest, as upstream has it now. For a request by digest, the bytes are verified.
#[derive(Clone, Debug)]
pub struct UpstreamManifest {
    pub bytes: Bytes,
    pub digest: Digest,
    /// The `Content-Type`, if upstream sent one.
    pub media_type: Option<MediaType>,
    /// Private if the answer needed credentials.
    pub visibility: Visibility,
}

/// A blob, or a part of it, that is being received from upstream.
pub struct UpstreamBlob {
    /// The size of the whole blob in bytes, if upstream reports it.
    pub size: Option<u64>,
    /// The offset of the body in the blob.
    pub offset: u64,
    pub visibility: Visibility,
    pub body: BoxStream<'static, Result<Bytes, UpstreamError>>,
}

/// A list of a repository at a registry, in pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List {
    /// `tags/list` (distribution-spec, end-8a and end-8b).
    Tags,
    /// The manifests whose subject is this digest (distribution-spec, end-12a and end-12b).
    Referrers(Digest),
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct UpstreamPage {
    /// The bytes, at most [`oci::MAX_MANIFEST_SIZE`].
    pub bytes: Bytes,
    pub content_type: Option<HeaderValue>,
    /// The query of the next page, from `Link` (RFC 8288).
    pub next: Option<String>,
    /// The header `OCI-Filters-Applied`.
    pub filters_applied: Option<HeaderValue>,
}

#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// The present target of a tag.
    async fn resolve(
        &self,
        repository: &UpstreamRepository,
        tag: &Tag,
    ) -> Result<Resolved, UpstreamError>;

    /// Upstream's present description of a manifest, by `HEAD` only: a `GET` may count as a pull.
    async fn head(
        &self,
        repository: &UpstreamRepository,
        reference: &Reference,
    ) -> Result<UpstreamHead, UpstreamError>;

    /// A manifest of at most [`oci::MAX_MANIFEST_SIZE`] bytes.
    async fn manifest(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
    ) -> Result<UpstreamManifest, UpstreamError>;

    /// The size of a blob in bytes, by `HEAD`, or by `GET` if that is refused. `None`: upstream does not report it.
    async fn blob_size(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
    ) -> Result<Option<u64>, UpstreamError>;

    /// A blob, or the first of `ranges`. Its bytes are not verified; the store that keeps them does that.
    async fn blob(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
        ranges: Option<&Ranges>,
    ) -> Result<UpstreamBlob, UpstreamError>;

    /// A page of a list. `query`: as the client sent it, without `ns`.
    async fn page(
        &self,
        repository: &UpstreamRepository,
        list: &List,
        query: &str,
    ) -> Result<UpstreamPage, UpstreamError>;
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("{0} does not have it")]
    NotFound(Origin),
    #[error("{origin} denies access; give credentials for it with --registry-auth-file")]
    Denied {
        origin: Origin,
        /// The Basic and Bearer challenges of the registry's own origin, if it answered 401; never those of a redirect
        /// target.
        challenges: Vec<HeaderValue>,
    },
    #[error("{origin} asks to slow down")]
    TooManyRequests {
        origin: Origin,
        retry_after: Option<HeaderValue>,
    },
    #[error("{origin} has no such range of it")]
    Unsatisfiable { origin: Origin, size: Option<u64> },
    #[error("an address that {0} leads to may not be called: {1}")]
    Forbidden(Origin, String),
    #[error("{0} answered against the specification: {1}")]
    Protocol(Origin, String),
    /// It cannot be connected: no name, no route, no listener, or no common TLS.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(Origin, String),
    /// It was reached, but its answer cannot be used.
    #[error("{0} fails: {1}")]
    Failed(Origin, String),
}
