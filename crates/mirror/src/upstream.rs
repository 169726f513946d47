//! The registries that images come from: the trait through which a mirror that has to fetch for itself asks them.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use http::HeaderValue;
use oci::{Digest, MediaType, Origin, Ranges, Reference, Tag};

use crate::Visibility;

/// The `Authorization` header that a client sent along. Its bytes are never printed.
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

/// A repository, and the credentials that it is asked with.
#[derive(Clone, Debug)]
pub struct UpstreamRepository {
    pub origin: Origin,
    /// A client's own. They go to the https origin of the registry and to nobody else, in place of this node's.
    /// `None`: the repository is asked anonymously, then with this node's credentials.
    pub credentials: Option<ClientCredentials>,
}

/// What a tag points at.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub digest: Digest,
    /// The manifest itself, where finding out took a GET.
    pub manifest: Option<UpstreamManifest>,
}

/// What upstream says of a manifest without sending it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamHead {
    /// `None` where upstream does not say; of a digest that was asked for, that one.
    pub digest: Option<Digest>,
    /// In bytes, where upstream says so.
    pub size: Option<u64>,
    pub media_type: Option<MediaType>,
    /// Private if it took credentials to be told.
    pub visibility: Visibility,
}

/// A manifest as upstream has it now. The bytes are verified where a digest was asked for.
#[derive(Clone, Debug)]
pub struct UpstreamManifest {
    pub bytes: Bytes,
    pub digest: Digest,
    /// `Content-Type`, where upstream sent one.
    pub media_type: Option<MediaType>,
    /// Private if it took credentials to get it.
    pub visibility: Visibility,
}

/// A blob, or a part of it, on its way from upstream.
pub struct UpstreamBlob {
    /// Of the whole blob, in bytes, where upstream says so.
    pub size: Option<u64>,
    /// Where in the blob the body begins.
    pub offset: u64,
    pub visibility: Visibility,
    pub body: BoxStream<'static, Result<Bytes, UpstreamError>>,
}

/// A list that a registry keeps of a repository, in pages.
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
    /// At most [`oci::MAX_MANIFEST_SIZE`].
    pub bytes: Bytes,
    pub content_type: Option<HeaderValue>,
    /// The query of the next page, from `Link` (RFC 8288).
    pub next: Option<String>,
    /// `OCI-Filters-Applied`.
    pub filters_applied: Option<HeaderValue>,
}

#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// What a tag points at now.
    async fn resolve(
        &self,
        repository: &UpstreamRepository,
        tag: &Tag,
    ) -> Result<Resolved, UpstreamError>;

    /// What upstream says of a manifest now, by `HEAD` alone: a `GET` may count as a pull.
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

    /// The size of a blob in bytes, by `HEAD`, or by `GET` where that is refused. `None` where upstream does not say.
    async fn blob_size(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
    ) -> Result<Option<u64>, UpstreamError>;

    /// A blob, or the first of `ranges`. Its bytes are not verified; whoever keeps them does that.
    async fn blob(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
        ranges: Option<&Ranges>,
    ) -> Result<UpstreamBlob, UpstreamError>;

    /// A page of a list; `query` as the client sent it, without `ns`.
    async fn page(
        &self,
        repository: &UpstreamRepository,
        list: &List,
        query: &str,
    ) -> Result<UpstreamPage, UpstreamError>;
}

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("{0} does not have it")]
    NotFound(Origin),
    #[error("{origin} denies access; give credentials for it with --registry-auth-file")]
    Denied {
        origin: Origin,
        /// The Basic and Bearer challenges of the registry's own origin, where it answered 401; never what a redirect
        /// led to.
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
    /// There is no connection to it: no name, no route, nobody who listens, or no common TLS.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(Origin, String),
    /// It was reached and gives no answer that can be used.
    #[error("{0} fails: {1}")]
    Failed(Origin, String),
}
