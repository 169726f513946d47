//! The traits in memory: a store and a router without a disk or a network, for tests and experiments.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Digest, Key, Origin};
use parking_lot::Mutex;

use crate::{
    Candidate, Catalog, Content, Growing, Health, Ingest, IngestId, Object, PeerId, Router, Search,
    Store, StoredObject, Visibility,
};

/// A store that holds its objects in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    catalog: Catalog,
    objects: Mutex<HashMap<Digest, Bytes>>,
    ingests: Mutex<HashMap<Digest, Ingest>>,
    /// The number of ingests opened so far.
    opened: AtomicU64,
    share_slots: AtomicBool,
}

impl MemoryStore {
    pub fn put(&self, origin: &Origin, bytes: Bytes) -> Digest {
        let digest = Digest::sha256(&bytes);
        let object = Object {
            size: bytes.len() as u64,
            origins: BTreeSet::from([origin.clone()]),
            visibility: Visibility::Shared,
        };
        self.objects.lock().insert(digest.clone(), bytes);
        self.end_ingest(&digest);
        self.catalog.insert(digest.clone(), object);
        digest
    }

    /// Replaces the bytes of an object, as a failing disk does.
    pub fn damage(&self, digest: &Digest, bytes: Bytes) {
        self.objects.lock().insert(digest.clone(), bytes);
    }

    pub fn remove(&self, digest: &Digest) {
        self.objects.lock().remove(digest);
        self.catalog.remove(digest);
    }

    /// Opens a new ingest of the store's owner, which is read through `growing`.
    pub fn ingest_from(&self, digest: &Digest, growing: Growing) {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let id = Some(IngestId(number, 0));
        let ingest = Ingest { id, growing };
        self.ingests.lock().insert(digest.clone(), ingest);
    }

    /// Ends the ingest of an object.
    pub fn end_ingest(&self, digest: &Digest) {
        self.ingests.lock().remove(digest);
    }

    /// Makes the owner's downloads share one queue.
    pub fn set_downloads_share_slots(&self) {
        self.share_slots.store(true, Ordering::Relaxed);
    }
}

impl Store for MemoryStore {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<StoredObject>> {
        let Some(bytes) = self.objects.lock().get(digest).cloned() else {
            return Ok(None);
        };
        Ok(Some(StoredObject {
            content: Content::Bytes(bytes),
            visibility: self.catalog.visibility(digest).unwrap_or_default(),
        }))
    }

    fn ingest(&self, digest: &Digest) -> io::Result<Option<Ingest>> {
        Ok(self.ingests.lock().get(digest).cloned())
    }

    fn downloads_share_slots(&self) -> bool {
        self.share_slots.load(Ordering::Relaxed)
    }

    fn health(&self) -> Health {
        Health::Ready
    }

    fn report_damaged(&self, digest: &Digest) {
        self.catalog.withhold(digest);
    }
}

/// The announcements that the routers of one cluster in memory share.
#[derive(Clone, Debug, Default)]
pub struct MemoryCluster(Arc<Mutex<BTreeMap<Key, Vec<Candidate>>>>);

impl MemoryCluster {
    /// The router of one node.
    pub fn router(&self, node: Candidate) -> MemoryRouter {
        MemoryRouter {
            cluster: self.clone(),
            node,
        }
    }
}

#[derive(Debug)]
pub struct MemoryRouter {
    cluster: MemoryCluster,
    node: Candidate,
}

impl MemoryRouter {
    fn me(&self) -> &PeerId {
        &self.node.peer
    }
}

#[async_trait]
impl Router for MemoryRouter {
    fn own_id(&self) -> Option<PeerId> {
        Some(self.me().clone())
    }

    fn find(&self, key: &Key) -> Search {
        let (found, search) = Search::channel();
        for candidate in self.cluster.0.lock().get(key).into_iter().flatten() {
            // A search holds enough candidates for any caller; the rest is left out.
            if candidate.peer != *self.me() && found.try_send(candidate.clone()).is_err() {
                break;
            }
        }
        search
    }

    async fn announce(&self, keys: Vec<Key>) {
        let mut known = self.cluster.0.lock();
        for key in keys {
            let holders = known.entry(key).or_default();
            holders.retain(|holder| holder.peer != *self.me());
            holders.push(self.node.clone());
        }
    }

    async fn withdraw(&self, keys: Vec<Key>) {
        let mut known = self.cluster.0.lock();
        for key in keys {
            if let Some(holders) = known.get_mut(&key) {
                holders.retain(|holder| holder.peer != *self.me());
            }
        }
    }

    fn health(&self) -> Health {
        Health::Ready
    }
}
