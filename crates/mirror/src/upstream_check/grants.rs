//! Which layers of protected repositories this node may get from peers: those of manifests that upstream has given to
//! this node's own containerd.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use oci::{Digest, Manifest, Origin, Role};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::{Store, local};

/// The most manifests that this node's containerd was sent upstream for and that have not arrived.
const MAX_EXPECTED: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
/// The most granted layers, and the most of one manifest.
const MAX_LAYERS: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");
const MAX_LAYERS_PER_MANIFEST: usize = 1024;
/// The time for which a manifest is expected, and for which its layers are granted after it has arrived.
const VALIDITY: Duration = Duration::from_secs(60 * 60);
/// The limit of a pull's wait for the disk. After that, its layers come from upstream.
const READ_LIMIT: Duration = Duration::from_millis(100);

type Named = (Origin, Digest);

/// Layers granted to this node.
#[derive(Debug)]
pub struct Grants {
    expected: Mutex<LruCache<Named, Instant>>,
    layers: Mutex<LruCache<Named, Instant>>,
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            expected: Mutex::new(LruCache::new(MAX_EXPECTED)),
            layers: Mutex::new(LruCache::new(MAX_LAYERS)),
        }
    }
}

impl Grants {
    /// Records that this node's containerd was sent upstream for a manifest that it does not hold. If the manifest
    /// appears in its store, upstream has granted it.
    pub fn expect(&self, origin: &Origin, manifest: &Digest) {
        let named = (origin.clone(), manifest.clone());
        self.expected.lock().put(named, Instant::now());
    }

    /// Records that upstream has just granted a manifest to the client that requests its layers next.
    pub fn grant(&self, origin: &Origin, manifest: &[u8]) {
        let Ok(manifest) = Manifest::parse(manifest) else {
            return;
        };
        let layers = manifest.children.iter().filter(|c| c.role == Role::Layer);
        let mut granted = self.layers.lock();
        for layer in layers.take(MAX_LAYERS_PER_MANIFEST) {
            granted.put((origin.clone(), layer.digest.clone()), Instant::now());
        }
    }

    /// Whether a layer has been granted to this node already.
    pub fn knows(&self, origin: &Origin, layer: &Digest) -> bool {
        let named = (origin.clone(), layer.clone());
        let mut layers = self.layers.lock();
        let granted = layers.get(&named);
        granted.is_some_and(|since| since.elapsed() < VALIDITY)
    }

    /// Whether this node may get a layer.
    pub async fn has(&self, origin: &Origin, layer: &Digest, store: &Arc<dyn Store>) -> bool {
        if self.knows(origin, layer) {
            return true;
        }
        self.look_for_expected(origin, store).await;
        self.knows(origin, layer)
    }

    async fn look_for_expected(&self, origin: &Origin, store: &Arc<dyn Store>) {
        let expected: Vec<_> = {
            let expected = self.expected.lock();
            let of_origin = expected
                .iter()
                .filter(|((of, _), since)| of == origin && since.elapsed() < VALIDITY);
            of_origin.map(|((_, digest), _)| digest.clone()).collect()
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
                    self.expected.lock().pop(&(origin.clone(), digest));
                    self.grant(origin, &bytes);
                }
            }
            Ok(Err(_)) | Err(_) => {
                tracing::debug!(%origin, "the disk is slow; layers come from upstream");
            }
        }
    }
}
