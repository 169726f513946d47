//! The registries that images come from: the trait through which a mirror that has to fetch for itself asks them.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use oci::{Digest, Origin, Reference};

use crate::Visibility;

/// A manifest as upstream has it now. The bytes are verified where a digest was asked for.
#[derive(Clone, Debug)]
pub struct UpstreamManifest {
    pub bytes: Bytes,
    pub digest: Digest,
    /// Private if it took credentials to get it.
    pub visibility: Visibility,
}

/// A blob on its way from upstream, from the offset asked for.
pub struct UpstreamBlob {
    /// Of the whole blob, in bytes, where upstream says so.
    pub size: Option<u64>,
    pub visibility: Visibility,
    pub body: BoxStream<'static, Result<Bytes, UpstreamError>>,
}

#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// What a tag points at now.
    async fn resolve(
        &self,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<Digest, UpstreamError>;

    /// At most [`oci::MAX_MANIFEST_SIZE`] bytes.
    async fn manifest(
        &self,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<UpstreamManifest, UpstreamError>;

    /// The blob's bytes from `offset` on. They are not verified; whoever keeps them does that.
    async fn blob(
        &self,
        origin: &Origin,
        digest: &Digest,
        offset: u64,
    ) -> Result<UpstreamBlob, UpstreamError>;
}

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("{0} does not have it")]
    NotFound(Origin),
    #[error("{0} denies access; give credentials for it with --registry-auth-file")]
    Denied(Origin),
    #[error("{0} asks to slow down")]
    TooManyRequests(Origin),
    #[error("an address that {0} leads to may not be called: {1}")]
    Forbidden(Origin, String),
    #[error("{0} answered against the specification: {1}")]
    Protocol(Origin, String),
    #[error("{0} cannot be reached: {1}")]
    Unreachable(Origin, String),
}
