//! What a node holds and where its bytes lie: the trait that the mirror reads local content through.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Digest, Origin, TagName};

use crate::{Catalog, Growing, Health, Upstream, Visibility};

/// A complete object, opened. It stays readable when the store removes it meanwhile.
#[derive(Clone, Debug)]
pub enum Content {
    Bytes(Bytes),
    File {
        file: Arc<File>,
        /// In bytes.
        size: u64,
    },
    /// A file whose bytes are being compared with its digest while they are handed out, the end of it withheld until
    /// that is done. It fails where they are wrong; then the store has it no longer.
    Verifying {
        growing: Growing,
        /// In bytes.
        size: u64,
    },
}

impl Content {
    /// In bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } | Self::Verifying { size, .. } => *size,
        }
    }
}

/// A complete object, opened, and who may have it.
#[derive(Clone, Debug)]
pub struct StoredObject {
    pub content: Content,
    /// As known when the content was opened, not before: an object may be replaced or committed meanwhile.
    pub visibility: Visibility,
}

/// An object on its way into the store.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// Which of its owner's ingests it is, for a store whose owner fills it. `None`: the mirror does.
    pub id: Option<IngestId>,
    pub growing: Growing,
}

/// Tells the ingests of one digest apart. Changes when an ingest is closed and when another one is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngestId(pub u64, pub u64);

/// A node's content. No method waits for another process. [`Self::open`] and [`Self::ingest`] may wait for the disk; the
/// others answer from memory.
pub trait Store: Send + Sync + 'static {
    /// What is here. Kept right by the store while images come and go.
    fn catalog(&self) -> &Catalog;

    /// Opens a complete object; `None` if it is not here, whatever the catalog says: an object may have come or gone
    /// a moment ago, or have been found damaged just now.
    ///
    /// A store that keeps private objects says [`Visibility::Private`] of what its catalog does not know
    /// (docs/decisions/0012-who-may-see-an-object.md). Reads the disk: call it where that holds up nobody else.
    ///
    /// # Errors
    /// The object is here and cannot be read.
    fn open(&self, digest: &Digest) -> io::Result<Option<StoredObject>>;

    /// What is on its way into the store, to be read while it grows; `None` if it is not on its way, or has arrived a
    /// moment ago ([`Self::open`] tells).
    ///
    /// containerd opens an ingest before it sends its request, so a request for a digest without one does not come from
    /// this node's containerd. A pull that died without clearing up leaves an object that neither grows nor ends: who
    /// waits has to bound the wait. Reads the disk: call it where that holds up nobody else.
    ///
    /// # Errors
    /// It is there and cannot be read.
    fn ingest(&self, digest: &Digest) -> io::Result<Option<Ingest>>;

    /// Whether the owner's downloads share one queue for the whole node, in which a request that is refused goes to the
    /// tail (containerd from 2.1 on; before, a pull keeps its place).
    fn downloads_share_slots(&self) -> bool;

    /// Whether the store can do its work. One that cannot be written is not ready, although it serves what it has.
    fn health(&self) -> Health;

    /// Is told that bytes of an object which the store handed out are not what the digest names. A store of its own
    /// gives the object up, so that it is fetched anew; for any other there is nothing to do.
    fn report_damaged(&self, _: &Digest) {}
}

/// A store that the mirror itself fills (the embedded one; containerd fills its own).
pub trait Intake: Send + Sync + 'static {
    /// Begins to take in an object, unless it is here or on its way already. Reads and writes the disk: call it where
    /// that holds up nobody else.
    ///
    /// # Errors
    /// The store has no room or cannot be written.
    fn begin(&self, digest: &Digest) -> Result<Begun, IntakeError>;

    /// Remembers what a tag points at.
    fn tag(&self, name: &TagName, digest: &Digest);
}

/// What a mirror that fills its own store needs: the way in, and where content comes from that no peer has.
#[derive(Clone)]
pub struct PullThrough {
    pub intake: Arc<dyn Intake>,
    pub upstream: Arc<dyn Upstream>,
}

pub enum Begun {
    /// It is here; [`Store::open`] gives it.
    Present,
    /// Somebody else is taking it in.
    Joined(Growing),
    /// The caller takes it in: writes all of it, then commits. Dropping the sink gives it up and fails who joined.
    New(Box<dyn Sink>, Growing),
}

/// The writing end of an object on its way into the store.
#[async_trait]
pub trait Sink: Send {
    /// Says how large the object will be, in bytes, as soon as that is known.
    ///
    /// # Errors
    /// The store has no room for it.
    async fn expect(&mut self, size: u64) -> Result<(), IntakeError>;

    /// Appends.
    ///
    /// # Errors
    /// The disk is full or fails, or the object grows beyond the expected size.
    async fn write(&mut self, bytes: Bytes) -> Result<(), IntakeError>;

    /// Bytes written so far.
    fn written(&self) -> u64;

    /// Verifies the digest and makes the object part of the store, for good and at once or not at all.
    ///
    /// # Errors
    /// The bytes are not what the digest names, or the disk fails.
    async fn commit(self: Box<Self>, provenance: Provenance) -> Result<(), IntakeError>;
}

/// Where an object that was taken in came from.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// `None` where the client named no registry.
    pub origin: Option<Origin>,
    pub visibility: Visibility,
}

#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    #[error(
        "{path}: an object of {size} bytes does not fit into a store of {limit}; raise --store-limit"
    )]
    TooLarge {
        path: PathBuf,
        size: u64,
        limit: u64,
    },
    #[error("more bytes came than the {expected} announced")]
    TooLong { expected: u64 },
    #[error("the bytes are not what {digest} names")]
    Mismatch { digest: Digest },
    #[error(
        "all {limit} bytes of the store are taken by objects on their way in; raise --store-limit"
    )]
    Crowded { limit: u64 },
    /// Its text says which path, why, and what the operator can do.
    #[error(transparent)]
    Io(#[from] io::Error),
}
