//! *What* is to be sent, decided apart from *how*: the value that the finding steps hand to the sending step.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use oci::{Digest, MediaType};

use crate::flight::FollowerStream;
use crate::pull_through::Download;
use crate::relay::Relay;
use crate::{Content, Growing};

/// Where an answer's bytes come from, for the log and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Local,
    /// This node's own, while it arrives.
    Growing,
    Peer,
    Upstream,
}

/// An object that was found.
#[derive(Debug)]
pub struct Found {
    pub digest: Digest,
    pub media_type: MediaType,
    /// Of the whole object, in bytes. `None`: upstream does not say, and its bytes are sent on as they come.
    pub size: Option<u64>,
    pub payload: Payload,
    pub source: Source,
}

/// The bytes of an object, or the way to them.
#[derive(Debug)]
pub enum Payload {
    /// None: the client asked for the head alone.
    Empty,
    Bytes(Bytes),
    File(Arc<File>),
    /// A file that is still being written; with what a follower gets before it is in there.
    Growing(Growing, Option<FollowerStream>),
    /// None: a follower asks how many bytes are there so far, and what this node sends to all, in bytes per second.
    Progress {
        offset: u64,
        sent: u64,
    },
    /// A peer's answer, passed on while it arrives.
    Relay(Box<Relay>),
    /// What comes from other nodes or from upstream, kept on the way where it can be.
    Download(Box<Download>),
    /// The body ends without a byte: the client is to ask again.
    RetryLater,
}

impl From<Content> for Payload {
    fn from(content: Content) -> Self {
        match content {
            Content::Bytes(bytes) => Self::Bytes(bytes),
            Content::File { file, .. } => Self::File(file),
            Content::Verifying { growing, .. } => Self::Growing(growing, None),
        }
    }
}
