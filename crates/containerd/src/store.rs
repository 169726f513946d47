//! The store, as the mirror sees it.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lru::LruCache;
use mirror::{Catalog, Content, FileIdentity, Health, Ingest, Store, StoredObject, Visibility};
use oci::Digest;
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;

use crate::checks::Generation;
use crate::follow::Followed;
use crate::ingest::Ingests;
use crate::metrics::Metrics;
use crate::{Config, blobs, keeper};

/// The most damaged files to remember.
const MAX_DAMAGED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// A node's containerd.
#[derive(Debug)]
pub struct Containerd {
    pub(crate) config: Config,
    pub(crate) catalog: Catalog,
    pub(crate) metrics: Metrics,
    pub(crate) followed: Arc<Followed>,
    ingests: Ingests,
    health: RwLock<Health>,
    /// The content folder, once it is known.
    content: RwLock<Option<Arc<Path>>>,
    /// Files that were found damaged. Nothing is deleted: the folder belongs to containerd, and may be read-only here.
    damaged: Mutex<LruCache<Digest, FileIdentity>>,
    /// Whether downloads share slots, by the last version that containerd reported.
    share_slots: AtomicBool,
}

impl Containerd {
    /// A store, and the work that keeps it up to date: it connects to containerd, waits as long as necessary, and
    /// starts again when containerd restarts. It never ends; dropping it ends everything that it started. Metrics are
    /// registered as `peili_containerd_…`.
    pub fn open(
        config: Config,
        registry: &mut Registry,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + use<>) {
        let not_yet = format!(
            "containerd at {} is not connected yet",
            config.socket.display()
        );
        let store = Arc::new(Self {
            catalog: Catalog::default(),
            metrics: Metrics::new(registry),
            followed: Arc::default(),
            ingests: Ingests::default(),
            health: RwLock::new(Health::Waiting(not_yet)),
            content: RwLock::new(config.content_path.as_deref().map(Into::into)),
            damaged: Mutex::new(LruCache::new(MAX_DAMAGED)),
            share_slots: AtomicBool::new(false),
            config,
        });
        (store.clone(), keeper::keep(store))
    }

    pub(crate) fn set_health(&self, health: Health) {
        self.metrics.connected.set(i64::from(health.is_ready()));
        *self.health.write() = health;
    }

    pub(crate) fn set_content(&self, content: Arc<Path>) {
        *self.content.write() = Some(content);
    }

    /// Records the version of containerd.
    pub(crate) fn set_generation(&self, generation: Generation) {
        let share = generation >= Generation::SHARES_SLOTS;
        self.share_slots.store(share, Ordering::Relaxed);
    }

    fn content(&self) -> Option<Arc<Path>> {
        self.content.read().clone()
    }

    /// Whether this file was found damaged. A file that has replaced it is not.
    fn is_damaged(&self, digest: &Digest, file: &File) -> io::Result<bool> {
        let mut damaged = self.damaged.lock();
        let Some(judged) = damaged.get(digest) else {
            return Ok(false);
        };
        let is_same = *judged == FileIdentity::of(file)?;
        if !is_same {
            damaged.pop(digest);
            self.catalog.remove(digest);
        }
        Ok(is_same)
    }
}

impl Store for Containerd {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// All of containerd's content is shared, whether or not an image or a label explains it: any client of the port
    /// gets it by its digest, as from Spegel.
    fn open(&self, digest: &Digest) -> io::Result<Option<StoredObject>> {
        let Some(content) = self.content() else {
            return Ok(None);
        };
        let Some((file, size)) = blobs::open(&content, digest)? else {
            // It was collected; inotify will report this.
            self.catalog.remove(digest);
            return Ok(None);
        };
        if self.is_damaged(digest, &file)? {
            return Ok(None);
        }
        let file = Arc::new(file);
        Ok(Some(StoredObject {
            content: Content::File { file, size },
            visibility: Visibility::Shared,
        }))
    }

    /// Progress is reported in containerd's steps of 1 MiB, for as long as the store's work is polled and a reader
    /// exists. [`IngestStage::Complete`](mirror::IngestStage) means committed: before that all bytes may be readable,
    /// for the seconds that the disk takes to sync. [`IngestStage::Failed`](mirror::IngestStage) means that the ingest
    /// is gone.
    fn ingest(&self, digest: &Digest) -> io::Result<Option<Ingest>> {
        let Some(content) = self.content() else {
            return Ok(None);
        };
        let Some(opened) = self.ingests.open(&content, digest)? else {
            return Ok(None);
        };
        let id = Some(opened.id);
        let growing = self.followed.follow(opened, blobs::path(&content, digest));
        Ok(growing.map(|growing| Ingest { id, growing }))
    }

    fn downloads_share_slots(&self) -> bool {
        self.share_slots.load(Ordering::Relaxed)
    }

    fn health(&self) -> Health {
        self.health.read().clone()
    }

    fn report_damaged(&self, digest: &Digest) {
        let identity = || {
            let (file, _) = blobs::open(&self.content()?, digest).ok()??;
            FileIdentity::of(&file).ok()
        };
        if let Some(identity) = identity() {
            self.damaged.lock().put(digest.clone(), identity);
            self.catalog.withhold(digest);
        }
    }
}
