//! Keeps layers that containerd would discard for a while, so that this node can share them.
//!
//! With `discard_unpacked_layers = true` nothing refers to a layer once its image is unpacked, and containerd collects
//! it at the end of the pull. The whole pull of a small image takes 50 ms. So each blob gets a lease as soon as its
//! file exists, in all namespaces, because containerd does not report yet in which one it is; containerd accepts leases
//! of content that it does not have. The lease is removed if the blob turns out to belong to no mirrored registry.
//!
//! One lease for each blob costs two calls, releases blobs one by one, and needs no memory here: a lease records which
//! blob it keeps and until when. So a list of leases is enough after a restart, and if the mirror is removed,
//! containerd releases everything in time.

mod keeper;
mod kept;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mirror::Object;
use oci::{Digest, Filter};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use crate::Namespace;
use crate::client::Client;
use crate::metrics::RetainMetrics;
use keeper::Keeper;

/// The most queued changes. A pull has a hundred at most, and each takes milliseconds.
const MAX_WAITING: usize = 1024;

/// Which layers are kept, and for how long.
#[derive(Clone, Debug)]
pub struct Retain {
    /// How long a blob is kept after its commit. Not zero.
    pub time: Duration,
    /// The most bytes of all kept blobs; the oldest are released first.
    pub bytes: u64,
    /// The most percent of the content's file system in use, at most 100. Above that nothing is kept, to protect the
    /// node.
    pub disk_percent: u8,
    /// The registries and repositories whose blobs are kept.
    pub filter: Filter,
}

#[derive(Debug)]
enum Change {
    Appeared {
        digest: Digest,
        /// The size in bytes.
        size: u64,
    },
    Gone {
        digest: Digest,
    },
}

/// The session's handle. Dropping it ends the work; the leases stay until they expire.
pub(crate) struct Retaining {
    filter: Filter,
    changes: mpsc::Sender<Change>,
    work: JoinSet<()>,
}

impl Retaining {
    pub fn start(
        retain: &Retain,
        client: Client,
        namespaces: &[Namespace],
        content: Arc<Path>,
        metrics: RetainMetrics,
    ) -> Self {
        let (changes, queue) = mpsc::channel(MAX_WAITING);
        let namespaces = namespaces.into();
        let keeper = Keeper::new(retain.clone(), client, namespaces, content, metrics);
        let mut work = JoinSet::new();
        work.spawn(keeper.run(queue));
        Self {
            filter: retain.filter.clone(),
            changes,
            work,
        }
    }

    /// Reports a new blob of this size in bytes on disk. `object`: what is known of it.
    pub fn appeared(&self, digest: &Digest, size: u64, object: Option<&Object>) {
        if object.is_some_and(|o| !o.origins.is_empty() && !self.admits(o)) {
            return;
        }
        self.tell(Change::Appeared {
            digest: digest.clone(),
            size,
        });
    }

    /// Reports that the origin of a new blob is known, or will not become known.
    pub fn placed(&self, digest: &Digest, object: Option<&Object>) {
        if !object.is_some_and(|o| self.admits(o)) {
            self.gone(digest);
        }
    }

    fn admits(&self, object: &Object) -> bool {
        object.origins.iter().any(|o| self.filter.admits(o))
    }

    /// Reports that a blob is no longer on disk, or is not to be kept.
    pub fn gone(&self, digest: &Digest) {
        self.tell(Change::Gone {
            digest: digest.clone(),
        });
    }

    /// The end of the work, which does not end by itself.
    pub async fn ended(&mut self) -> Option<Result<(), JoinError>> {
        self.work.join_next().await
    }

    fn tell(&self, change: Change) {
        if let Err(error) = self.changes.try_send(change) {
            tracing::debug!(%error, "too much to retain at once");
        }
    }
}

#[cfg(test)]
#[path = "retain/tests.rs"]
mod tests;
