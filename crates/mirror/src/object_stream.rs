//! Objects whose bytes come from a peer, from upstream or from a running pull while they are sent. Providers implement
//! these traits; no step of the pipeline names a provider.

use std::error::Error;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use oci::ByteRange;

use crate::body::client_socket::ClientSocket;
use crate::body::send_memory::Share;

/// The bytes of a range, one piece after the other.
pub type Pieces = BoxStream<'static, Result<Bytes, BodyError>>;

/// An object whose bytes come while they are sent.
pub trait ObjectStream: Send {
    /// The bytes of a range. Reads from a disk use this share of the memory.
    fn stream(self: Box<Self>, range: ByteRange, share: Arc<Share>) -> Pieces;

    /// The same object again, for a further range.
    fn again(&self) -> Box<dyn ObjectStream>;

    /// Whether its pieces occupy memory of the mirror for as long as they are kept.
    fn takes_memory(&self) -> bool {
        false
    }
}

/// Observes a body until it ends, and is then dropped.
pub trait BodyHook: Send + Sync {
    /// Called with the client that the body is sent to.
    fn sent_to(&self, _: &Arc<ClientSocket>) {}

    /// Called when these bytes were passed to the connection.
    fn sent(&self, bytes: u64);
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("reading local content")]
    Read(#[from] io::Error),
    #[error("the object stopped growing at {written} bytes")]
    Stunted { written: u64 },
    #[error("the object did not grow for too long")]
    Silent,
    /// The error of an [`ObjectStream`].
    #[error(transparent)]
    Stream(Box<dyn Error + Send + Sync>),
}

impl BodyError {
    pub fn of_stream(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Stream(Box::new(error))
    }
}
