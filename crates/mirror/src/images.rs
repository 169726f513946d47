//! Which image an object belongs to. Manifests requested by the node's client contain the sizes of the objects
//! requested next, and show how many of them move at once. A peer that reports another size does not have the object.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use oci::{Digest, Manifest, Role};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::{NodeId, Store, local};

/// The most objects to remember: those of some dozen images being pulled.
const MAX_OBJECTS: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");
/// The most objects of one manifest to remember.
const MAX_OBJECTS_PER_MANIFEST: usize = 1024;
/// The most manifests to look for in the store.
const MAX_EXPECTED: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");
/// The time after which a manifest is no longer expected.
const EXPECTED_FOR: Duration = Duration::from_secs(300);
/// The most images whose layers may still be coming, for [`RECENT`] after their manifest.
const MAX_RECENT: usize = 8;
const RECENT: Duration = Duration::from_secs(60);
/// The limit of a pull's wait for reading manifests from the disk. After that, their content counts as unknown.
const READ_LIMIT: Duration = Duration::from_millis(500);
/// The number of layers that containerd pulls at once.
const MAX_CONCURRENT: u64 = 3;

/// The information on an object in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The bytes of the object. `None`: no manifest contains them, or some contradict each other, as any client can
    /// write a manifest.
    pub size: Option<u64>,
    /// How many objects of the image probably move at once: as many as its largest fits into it, 1 to 3.
    pub streams: u8,
    /// If it is a layer: all layers of the image, lowest first.
    pub layers: Arc<[Digest]>,
    /// The node that pulled the manifest from upstream, if it was another one.
    pub leader: Option<NodeId>,
}

impl Default for ObjectInfo {
    fn default() -> Self {
        Self {
            size: None,
            streams: 1,
            layers: Arc::default(),
            leader: None,
        }
    }
}

#[derive(Debug)]
pub struct Images {
    objects: Mutex<LruCache<Digest, Entry>>,
    /// The manifests expected in the store, and since when.
    expected: Mutex<LruCache<Digest, Instant>>,
    /// The layers of the latest manifests, and when these came.
    recent: Mutex<VecDeque<(Instant, Arc<[Digest]>)>>,
}

#[derive(Debug, Default)]
struct Entry {
    object_info: ObjectInfo,
    /// Manifests contradict each other about the size.
    is_contested: bool,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            objects: Mutex::new(LruCache::new(MAX_OBJECTS)),
            expected: Mutex::new(LruCache::new(MAX_EXPECTED)),
            recent: Mutex::default(),
        }
    }
}

impl Images {
    /// Records that this manifest was requested, and is in the store or will arrive there from upstream.
    pub fn expect(&self, manifest: &Digest) {
        self.expected.lock().put(manifest.clone(), Instant::now());
    }

    /// Records the content of a manifest. Other bytes are ignored.
    pub fn learn(&self, bytes: &[u8], leader: Option<NodeId>) {
        let Ok(manifest) = Manifest::parse(bytes) else {
            return;
        };
        let layers = || {
            manifest
                .children
                .iter()
                .filter(|c| c.role != Role::Manifest)
        };
        let sizes = || layers().filter_map(|c| c.size);
        let total = sizes().fold(0, u64::saturating_add);
        let largest = sizes().max().unwrap_or_default();
        // At most three.
        let streams = (total / largest.max(1)).clamp(1, MAX_CONCURRENT) as u8;
        let is_layer = |role: Role| role == Role::Layer;
        let all = manifest.children.iter().filter(|c| is_layer(c.role));
        let all: Arc<[_]> = all
            .take(MAX_OBJECTS_PER_MANIFEST)
            .map(|c| c.digest.clone())
            .collect();
        if !all.is_empty() {
            let mut recent = self.recent.lock();
            recent.retain(|(_, layers)| *layers != all);
            recent.push_back((Instant::now(), all.clone()));
            if recent.len() > MAX_RECENT {
                recent.pop_front();
            }
        }
        let mut objects = self.objects.lock();
        for child in manifest.children.iter().take(MAX_OBJECTS_PER_MANIFEST) {
            let before = objects.get(&child.digest);
            let is_contested = before.is_some_and(|before| before.contradicts(child.size));
            let known = before.and_then(|before| before.object_info.size);
            let object_info = ObjectInfo {
                size: child.size.or(known).filter(|_| !is_contested),
                streams: if child.role == Role::Manifest {
                    1
                } else {
                    streams
                },
                layers: if is_layer(child.role) {
                    all.clone()
                } else {
                    Arc::default()
                },
                leader,
            };
            let entry = Entry {
                object_info,
                is_contested,
            };
            objects.put(child.digest.clone(), entry);
        }
    }

    /// What is known about an object.
    pub fn object_info(&self, digest: &Digest) -> ObjectInfo {
        let mut objects = self.objects.lock();
        let entry = objects.get(digest);
        entry.map_or_else(ObjectInfo::default, |entry| entry.object_info.clone())
    }

    /// The bytes of an object, if that is known.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.objects.lock().get(digest)?.object_info.size
    }

    /// Whether layers of another image are still missing.
    pub fn has_other_missing_layers(
        &self,
        layers: &[Digest],
        is_here: impl Fn(&Digest) -> bool,
    ) -> bool {
        let recent = self.recent.lock().clone();
        let others = recent
            .iter()
            .filter(|(came, other)| came.elapsed() < RECENT && **other != *layers);
        let mut missing = others.flat_map(|(_, other)| other.iter());
        missing.any(|layer| !layers.contains(layer) && !is_here(layer))
    }

    /// Records the content of the expected manifests that have arrived in the store.
    pub async fn learn_expected(&self, store: &Arc<dyn Store>) {
        let expected = self.expected();
        if expected.is_empty() {
            return;
        }
        let read = |store: &dyn Store| -> Vec<_> {
            let arrived = expected.into_iter().filter_map(|digest| {
                let bytes = local::manifest_bytes(store, &digest)?;
                digest.verifies(&bytes).then_some((digest, bytes))
            });
            arrived.collect()
        };
        match timeout(READ_LIMIT, local::read_store(store, read)).await {
            Ok(Ok(arrived)) => {
                for (digest, bytes) in arrived {
                    self.expected.lock().pop(&digest);
                    self.learn(&bytes, None);
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "cannot read manifests; sizes are not known"),
            Err(_) => tracing::debug!("the disk is slow; sizes are not known"),
        }
    }

    /// The manifests that may still arrive.
    fn expected(&self) -> Vec<Digest> {
        let mut expected = self.expected.lock();
        while let Some((digest, since)) = expected.peek_lru()
            && since.elapsed() > EXPECTED_FOR
        {
            let digest = digest.clone();
            expected.pop(&digest);
        }
        expected.iter().map(|(digest, _)| digest.clone()).collect()
    }
}

impl Entry {
    /// Whether manifests contradict each other, including one with this size.
    fn contradicts(&self, size: Option<u64>) -> bool {
        let known = self.object_info.size;
        self.is_contested || known.zip(size).is_some_and(|(known, told)| known != told)
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

    fn manifest(layers: &[(&str, u64)]) -> Bytes {
        let layer = |(name, size): &(&str, u64)| {
            format!(r#"{{"digest":"{}","size":{size}}}"#, digest(name))
        };
        let layers: Vec<_> = layers.iter().map(layer).collect();
        let (config, layers) = (digest("config"), layers.join(","));
        let json = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":1}},"layers":[{layers}]}}"#
        );
        json.into()
    }

    #[test]
    fn a_manifest_tells_sizes_streams_and_its_leader() {
        for (layers, streams) in [
            (&[("a", 100)][..], 1),
            (&[("a", 100), ("b", 99)], 2),
            (&[("a", 100), ("b", 100), ("c", 100), ("d", 100)], 3),
            (&[("a", u64::MAX), ("b", u64::MAX)], 1),
            (&[("a", 0)], 1),
        ] {
            let images = Images::default();
            let leader = NodeId([7; 32]);
            images.learn(&manifest(layers), Some(leader));
            let object_info = images.object_info(&digest("a"));
            assert_eq!(object_info.size, Some(layers[0].1));
            assert_eq!(
                (object_info.streams, object_info.leader),
                (streams, Some(leader))
            );
            assert_eq!(images.object_info(&digest("x")), ObjectInfo::default());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_manifest_that_came_from_upstream_is_read_when_it_is_there() {
        let (images, memory) = (Images::default(), Arc::new(MemoryStore::default()));
        let store: Arc<dyn Store> = memory.clone();
        let origin = Origin {
            registry: "quay.io".parse().expect("a registry"),
            repository: "a/b".parse().expect("a repository"),
        };
        let (bytes, late) = (manifest(&[("a", 7)]), manifest(&[("b", 8)]));
        images.expect(&Digest::sha256(&late));
        tokio::time::advance(EXPECTED_FOR).await;
        images.expect(&Digest::sha256(&bytes));
        images.learn_expected(&store).await;
        assert_eq!(images.object_info(&digest("a")).size, None);
        memory.put(&origin, bytes);
        images.learn_expected(&store).await;
        let object_info = images.object_info(&digest("a"));
        assert_eq!((object_info.size, object_info.leader), (Some(7), None));
        assert_eq!(images.expected().len(), 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        memory.put(&origin, late);
        images.learn_expected(&store).await;
        assert_eq!(images.object_info(&digest("b")).size, None);
        assert!(images.expected().is_empty(), "it is looked for no longer");
    }

    #[test]
    fn another_image_comes_as_long_as_layers_of_it_are_missing() {
        let images = Images::default();
        let layers = |names: [&str; 2]| names.map(digest);
        images.learn(&manifest(&[("a", 1), ("b", 1)]), None);
        let come = |here: &[Digest]| {
            images.has_other_missing_layers(&layers(["a", "b"]), |layer: &Digest| {
                here.contains(layer)
            })
        };
        assert!(!come(&[]), "no other");
        images.learn(&manifest(&[("b", 1), ("c", 1)]), None);
        assert!(come(&[]));
        assert!(!come(&[digest("c")]));
    }

    #[test]
    fn a_size_counts_that_no_other_manifest_contradicts() {
        let images = Images::default();
        for (size, known) in [(7, Some(7)), (7, Some(7)), (8, None), (7, None)] {
            images.learn(&manifest(&[("a", size)]), None);
            assert_eq!(images.size(&digest("a")), known);
        }
        assert_eq!(images.size(&digest("config")), Some(1));
    }

    #[test]
    fn what_is_no_manifest_says_nothing() {
        let images = Images::default();
        images.learn(b"{}", None);
        assert_eq!(images.objects.lock().len(), 0);
    }
}
