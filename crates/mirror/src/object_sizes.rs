//! How large the objects are that a client is about to ask for, by the manifests that it was given. A peer that tells
//! another size has not got the object.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use oci::{Digest, Manifest};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::{Store, local};

/// The most objects whose size is remembered: those of a hundred images.
const MAX_OBJECTS: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");
/// The most objects of one manifest to remember.
const MAX_OBJECTS_PER_MANIFEST: usize = 1024;
/// The most manifests to look for in the store.
const MAX_EXPECTED: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");
/// A pull does not wait longer for the disk to tell sizes; then none are known.
const READ_LIMIT: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct ObjectSizes {
    /// In bytes. `None`: manifests contradict each other, and anybody can write a manifest.
    sizes: Mutex<LruCache<Digest, Option<u64>>>,
    /// Manifests that are in the store, or will be when an object that they name is asked for.
    expected: Mutex<LruCache<Digest, ()>>,
}

impl Default for ObjectSizes {
    fn default() -> Self {
        Self {
            sizes: Mutex::new(LruCache::new(MAX_OBJECTS)),
            expected: Mutex::new(LruCache::new(MAX_EXPECTED)),
        }
    }
}

impl ObjectSizes {
    /// The bytes of an object, if that is known.
    pub fn of(&self, digest: &Digest) -> Option<u64> {
        *self.sizes.lock().get(digest)?
    }

    /// Remembers what a manifest says. Other bytes are ignored.
    pub fn learn(&self, bytes: &[u8]) {
        let Ok(manifest) = Manifest::parse(bytes) else {
            return;
        };
        let mut sizes = self.sizes.lock();
        for child in manifest.children.iter().take(MAX_OBJECTS_PER_MANIFEST) {
            let Some(size) = child.size else { continue };
            match sizes.get_mut(&child.digest) {
                Some(known) => *known = known.filter(|known| *known == size),
                None => {
                    sizes.put(child.digest.clone(), Some(size));
                }
            }
        }
    }

    /// Records that a client has asked for this manifest, and gets it from the store or from upstream.
    pub fn expect(&self, manifest: &Digest) {
        self.expected.lock().put(manifest.clone(), ());
    }

    /// Remembers what those of the expected manifests say that are in the store by now.
    pub async fn learn_expected(&self, store: &Arc<dyn Store>) {
        let expected: Vec<_> = {
            let expected = self.expected.lock();
            expected.iter().map(|(digest, ())| digest.clone()).collect()
        };
        if expected.is_empty() {
            return;
        }
        let read = |store: &dyn Store| -> Vec<_> {
            let read = |digest: Digest| {
                let bytes = local::manifest_bytes(store, &digest)?;
                digest.verifies(&bytes).then_some((digest, bytes))
            };
            expected.into_iter().filter_map(read).collect()
        };
        match timeout(READ_LIMIT, local::read_store(store, read)).await {
            Ok(Ok(arrived)) => {
                for (digest, bytes) in arrived {
                    self.expected.lock().pop(&digest);
                    self.learn(&bytes);
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "cannot read manifests; sizes are not known"),
            Err(_) => tracing::debug!("the disk is slow; sizes are not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use oci::Origin;

    use super::*;
    use crate::memory::MemoryStore;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    fn manifest(layer: &str, size: u64) -> Bytes {
        let (config, layer) = (digest("config"), digest(layer));
        let json = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":1}},"layers":[{{"digest":"{layer}","size":{size}}}]}}"#
        );
        json.into()
    }

    #[test]
    fn a_size_counts_that_no_other_manifest_contradicts() {
        let sizes = ObjectSizes::default();
        sizes.learn(b"{}");
        assert_eq!(sizes.of(&digest("a")), None);
        sizes.learn(&manifest("a", 7));
        sizes.learn(&manifest("a", 7));
        assert_eq!(sizes.of(&digest("a")), Some(7));
        sizes.learn(&manifest("a", 8));
        sizes.learn(&manifest("a", 7));
        assert_eq!(sizes.of(&digest("a")), None);
        assert_eq!(sizes.of(&digest("config")), Some(1));
    }

    #[tokio::test]
    async fn manifests_of_the_store_are_read_when_they_are_there() {
        let (sizes, memory) = (ObjectSizes::default(), Arc::new(MemoryStore::default()));
        let store: Arc<dyn Store> = memory.clone();
        let origin = Origin {
            registry: "quay.io".parse().expect("a registry"),
            repository: "a/b".parse().expect("a repository"),
        };
        let bytes = manifest("a", 7);
        sizes.expect(&Digest::sha256(&bytes));
        sizes.learn_expected(&store).await;
        assert_eq!(sizes.of(&digest("a")), None);
        memory.put(&origin, bytes);
        sizes.learn_expected(&store).await;
        assert_eq!(sizes.of(&digest("a")), Some(7));
        assert_eq!(sizes.expected.lock().len(), 0);
    }
}
