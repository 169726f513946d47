//! Layers that containerd would discard, kept for a while so that this node can share them.
//!
//! With `discard_unpacked_layers = true` nothing names a layer once its image is unpacked, and containerd collects it
//! when the pull ends; all of a small image's pull takes 50 ms. So each blob gets a lease of ours as soon as its file is
//! there, in all namespaces, because containerd does not say yet in which; it takes leases of what it
//! does not have. The lease goes again if the blob turns out to belong to no mirrored registry.
//!
//! One lease a blob costs two calls, lets blobs go one by one, and needs no memory of ours: a lease says by itself
//! which blob it keeps and until when, so that after a restart a list of leases is all there is to know, and when we are
//! gone for good containerd lets everything go in time.

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

/// Changes that wait for their turn. A pull brings a hundred at the most, and each takes milliseconds.
const MAX_WAITING: usize = 1024;

/// What is kept of layers, and how long.
#[derive(Clone, Debug)]
pub struct Retain {
    /// From when a blob was committed. Not zero.
    pub time: Duration,
    /// Of all blobs kept; the oldest go first.
    pub bytes: u64,
    /// Percentage of the content's file system that may be in use, at most 100. Above it nothing is kept, for the
    /// node's own sake.
    pub disk_percent: u8,
    /// Where blobs must belong to be kept.
    pub filter: Filter,
}

#[derive(Debug)]
enum Change {
    Appeared {
        digest: Digest,
        /// In bytes.
        size: u64,
    },
    Gone {
        digest: Digest,
    },
}

/// The session's end of it. Dropping it ends the work; the leases stay until they expire.
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

    /// A blob of this size in bytes is new on disk; the object is what is known of it.
    pub fn appeared(&self, digest: &Digest, size: u64, object: Option<&Object>) {
        if object.is_some_and(|o| !o.origins.is_empty() && !self.admits(o)) {
            return;
        }
        self.tell(Change::Appeared {
            digest: digest.clone(),
            size,
        });
    }

    /// It is known where a new blob belongs, or that this will not be known.
    pub fn placed(&self, digest: &Digest, object: Option<&Object>) {
        if !object.is_some_and(|o| self.admits(o)) {
            self.gone(digest);
        }
    }

    fn admits(&self, object: &Object) -> bool {
        object.origins.iter().any(|o| self.filter.admits(o))
    }

    /// A blob is not on disk any more, or is not to be kept.
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
