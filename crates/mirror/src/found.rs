//! The content that was found: the value that the finding steps pass to the sending step. *What* is sent is decided
//! separately from *how*.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use oci::{Digest, MediaType};

use crate::object_stream::{BodyHook, ObjectStream};
use crate::{Content, Growing};

/// The source of an answer's bytes, for the log and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Local,
    /// This node's own object, while it arrives.
    Growing,
    Peer,
    Upstream,
}

/// An object that was found.
pub struct Found {
    pub digest: Digest,
    pub media_type: MediaType,
    /// The size of the whole object, in bytes. `None`: upstream does not report it, and its bytes are sent as they
    /// come.
    pub size: Option<u64>,
    pub payload: Payload,
    pub source: Source,
    /// Further headers of the answer, besides those that describe the object.
    pub headers: HeaderMap,
    /// Observes the body that is sent.
    pub hook: Option<Box<dyn BodyHook>>,
}

/// The bytes of an object, or their source.
pub enum Payload {
    /// No bytes: only the head is requested.
    Empty,
    Bytes(Bytes),
    File(Arc<File>),
    /// A file that is still being written.
    Growing(Growing),
    /// Bytes that come while they are sent.
    Stream(Box<dyn ObjectStream>),
}

impl Found {
    pub fn new(
        digest: &Digest,
        media_type: MediaType,
        size: Option<u64>,
        payload: Payload,
        source: Source,
    ) -> Self {
        Self {
            digest: digest.clone(),
            media_type,
            size,
            payload,
            source,
            headers: HeaderMap::new(),
            hook: None,
        }
    }

    pub fn blob(digest: &Digest, size: Option<u64>, payload: Payload, source: Source) -> Self {
        Self::new(digest, MediaType::octet_stream(), size, payload, source)
    }
}

impl Payload {
    pub fn stream(stream: impl ObjectStream + 'static) -> Self {
        Self::Stream(Box::new(stream))
    }
}

impl From<Content> for Payload {
    fn from(content: Content) -> Self {
        match content {
            Content::Bytes(bytes) => Self::Bytes(bytes),
            Content::File { file, .. } => Self::File(file),
            Content::Verifying { growing, .. } => Self::Growing(growing),
        }
    }
}
