//! The content of a node and its bytes: the trait through which the mirror reads local content.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Digest, Origin, TagName};

use crate::{Catalog, Growing, Health, Upstream, Visibility};

/// An opened complete object. It stays readable if the store removes it meanwhile.
#[derive(Clone, Debug)]
pub enum Content {
    Bytes(Bytes),
    File {
        file: Arc<File>,
        /// The size in bytes.
        size: u64,
    },
    /// A file whose bytes are being compared with its digest while they are sent. The end is withheld until that is
    /// done. If they are wrong, reading fails, and the store has removed it.
    Verifying {
        growing: Growing,
        /// The size in bytes.
        size: u64,
    },
}

impl Content {
    /// The size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } | Self::Verifying { size, .. } => *size,
        }
    }
}

/// An opened complete object, and which clients may have it.
#[derive(Clone, Debug)]
pub struct StoredObject {
    pub content: Content,
    /// The visibility when the content was opened, not before: an object may be replaced or committed meanwhile.
    pub visibility: Visibility,
}

/// An object that is being taken into the store.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// The ingest of the owner, for a store whose owner fills it. `None`: the mirror fills it.
    pub id: Option<IngestId>,
    pub growing: Growing,
}

/// Distinguishes the ingests of one digest. Changes when an ingest is closed and when another one is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngestId(pub u64, pub u64);

/// A node's content. No method waits for another process. [`Self::open`] and [`Self::ingest`] may wait for the disk;
/// the others answer from memory.
pub trait Store: Send + Sync + 'static {
    /// The content. The store updates it while images come and go.
    fn catalog(&self) -> &Catalog;

    /// Opens a complete object. `None`: it is not here, whatever the catalog says: it may just have come or gone, or
    /// have been found damaged.
    ///
    /// A store that keeps private objects returns [`Visibility::Private`] for objects that its catalog does not know
    /// (docs/decisions/0012-who-may-see-an-object.md). Reads the disk: call it where that delays no others.
    ///
    /// # Errors
    /// The object is here and cannot be read, or not be verified now.
    fn open(&self, digest: &Digest) -> io::Result<Option<StoredObject>>;

    /// Whether a complete object is here. A store that verifies what it opens does not verify it for this. Reads the
    /// disk: call it where that delays no others.
    ///
    /// # Errors
    /// The object is here and cannot be read.
    fn contains(&self, digest: &Digest) -> io::Result<bool> {
        Ok(self.open(digest)?.is_some())
    }

    /// An object that is being taken in, to be read while it grows. `None`: it is not, or has just arrived
    /// ([`Self::open`] finds it then).
    ///
    /// containerd opens an ingest before it sends its request, so a request for a digest without one does not come from
    /// this node's containerd. A pull that died without cleaning up leaves an object that neither grows nor ends:
    /// callers must limit their wait. Reads the disk: call it where that delays no others.
    ///
    /// # Errors
    /// It is there and cannot be read.
    fn ingest(&self, digest: &Digest) -> io::Result<Option<Ingest>>;

    /// Whether the owner's downloads share one queue for the whole node, in which a refused request goes to the tail
    /// (containerd from 2.1 on; before, a pull keeps its place).
    fn downloads_share_slots(&self) -> bool;

    /// Whether the store can do its work. One that cannot be written is not ready, although it serves its content.
    fn health(&self) -> Health;

    /// Reports that bytes of an object from this store do not match the digest. A store that the mirror fills removes
    /// the object, so that it is fetched again; any other does nothing.
    fn report_damaged(&self, _: &Digest) {}
}

/// A store that the mirror itself fills (the embedded one; containerd fills its own).
pub trait Intake: Send + Sync + 'static {
    /// Begins to take in an object, unless it is here or being taken in already. Reads and writes the disk: call it
    /// where that delays no others.
    ///
    /// # Errors
    /// The store has no room or cannot be written.
    fn begin(&self, digest: &Digest) -> Result<Begun, IntakeError>;

    /// Remembers the target of a tag.
    fn tag(&self, name: &TagName, digest: &Digest);
}

/// The parts for a mirror that fills its own store: the intake, and the source of content that no peer has.
#[derive(Clone)]
pub struct PullThrough {
    pub intake: Arc<dyn Intake>,
    pub upstream: Arc<dyn Upstream>,
}

pub enum Begun {
    /// It is here; [`Store::open`] opens it.
    Present,
    /// Another request is taking it in.
    Joined(Growing),
    /// The caller takes it in: writes all of it, then commits. Dropping the sink gives it up and fails those that
    /// joined.
    New(Box<dyn Sink>, Growing),
}

/// The sink of an object that is being taken into the store.
#[async_trait]
pub trait Sink: Send {
    /// Sets the size of the object in bytes, as soon as it is known.
    ///
    /// # Errors
    /// The store has no room for it.
    async fn expect(&mut self, size: u64) -> Result<(), IntakeError>;

    /// Appends bytes.
    ///
    /// # Errors
    /// The disk is full or fails, or the object exceeds the expected size.
    async fn write(&mut self, bytes: Bytes) -> Result<(), IntakeError>;

    /// The bytes written so far.
    fn written(&self) -> u64;

    /// Verifies the digest and makes the object part of the store, durably and at once, or not at all.
    ///
    /// # Errors
    /// The bytes do not match the digest, or the disk fails.
    async fn commit(self: Box<Self>, provenance: Provenance) -> Result<(), IntakeError>;
}

/// The origin of an object that was taken in.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// `None`: the client named no registry.
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
    /// Its text contains the path, the cause, and what the operator can do.
    #[error(transparent)]
    Io(#[from] io::Error),
}
