//! What image an object belongs to: manifests that this node's client asked for tell the sizes of what it asks for
//! next, and how much of it moves at once.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use oci::{Digest, Manifest, Role};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{PeerId, Store, local};

/// Objects remembered: of some dozen images that are being pulled.
const MOST_OBJECTS: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");
/// Objects of one manifest that are remembered.
const MOST_OF_ONE: usize = 1024;
/// Manifests on their way into the store that are looked for there.
const MOST_EXPECTED: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");
/// Images whose layers may still be on their way, for so long after their manifest came.
const MOST_RECENT: usize = 8;
const RECENT: Duration = Duration::from_secs(60);
/// Layers that containerd pulls at once.
const MOST_STREAMS: u64 = 3;

/// What the manifest of an object says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Of the object, in bytes.
    pub size: Option<u64>,
    /// How many objects of the image are likely to move at the same moment: as many as its largest fits into it, 1 to
    /// 3.
    pub streams: u8,
    /// Where it is a layer: all layers of the image, from the lowest on.
    pub layers: Arc<[Digest]>,
    /// Who pulled the manifest from upstream, if it was another node.
    pub leader: Option<PeerId>,
}

impl Default for About {
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
    objects: Mutex<LruCache<Digest, About>>,
    expected: Mutex<LruCache<Digest, ()>>,
    /// The layers of those whose manifests came last, and when.
    recent: Mutex<VecDeque<(Instant, Arc<[Digest]>)>>,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            objects: Mutex::new(LruCache::new(MOST_OBJECTS)),
            expected: Mutex::new(LruCache::new(MOST_EXPECTED)),
            recent: Mutex::default(),
        }
    }
}

impl Images {
    /// This manifest was asked for and will come from upstream.
    pub fn expect(&self, manifest: &Digest) {
        self.expected.lock().put(manifest.clone(), ());
    }

    /// Remembers what a manifest says. Bytes that are none say nothing.
    pub fn learn(&self, bytes: &[u8], leader: Option<&PeerId>) {
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
        // Never more than three.
        let streams = (total / largest.max(1)).clamp(1, MOST_STREAMS) as u8;
        let is_layer = |role: Role| role == Role::Layer;
        let all = manifest.children.iter().filter(|c| is_layer(c.role));
        let all: Arc<[_]> = all.take(MOST_OF_ONE).map(|c| c.digest.clone()).collect();
        if !all.is_empty() {
            let mut recent = self.recent.lock();
            recent.push_back((Instant::now(), all.clone()));
            if recent.len() > MOST_RECENT {
                recent.pop_front();
            }
        }
        let mut objects = self.objects.lock();
        for child in manifest.children.iter().take(MOST_OF_ONE) {
            let about = About {
                size: child.size,
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
                leader: leader.cloned(),
            };
            objects.put(child.digest.clone(), about);
        }
    }

    /// What is known about an object.
    pub fn about(&self, store: &dyn Store, digest: &Digest) -> About {
        if let Some(about) = self.objects.lock().get(digest) {
            return about.clone();
        }
        self.look_for_expected(store);
        let mut objects = self.objects.lock();
        objects.get(digest).cloned().unwrap_or_default()
    }

    /// Whether layers of another image than the one of these are on their way as well.
    pub fn others_come(&self, layers: &[Digest], is_here: impl Fn(&Digest) -> bool) -> bool {
        let recent = self.recent.lock().clone();
        let others = recent
            .iter()
            .filter(|(came, other)| came.elapsed() < RECENT && **other != *layers);
        let mut missing = others.flat_map(|(_, other)| other.iter());
        missing.any(|layer| !layers.contains(layer) && !is_here(layer))
    }

    /// Reads the manifests that have come since.
    fn look_for_expected(&self, store: &dyn Store) {
        let expected: Vec<_> = {
            let expected = self.expected.lock();
            expected.iter().map(|(digest, ())| digest.clone()).collect()
        };
        for digest in expected {
            if let Some(bytes) = local::manifest_bytes(store, &digest) {
                self.expected.lock().pop(&digest);
                self.learn(&bytes, None);
            }
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
            let (images, store) = (Images::default(), MemoryStore::default());
            let leader = PeerId::new("leader");
            images.learn(&manifest(layers), Some(&leader));
            let about = images.about(&store, &digest("a"));
            assert_eq!(about.size, Some(layers[0].1));
            assert_eq!((about.streams, about.leader), (streams, Some(leader)));
            assert_eq!(images.about(&store, &digest("x")), About::default());
        }
    }

    #[test]
    fn a_manifest_that_came_from_upstream_is_read_when_it_is_there() {
        let (images, store) = (Images::default(), MemoryStore::default());
        let bytes = manifest(&[("a", 7)]);
        images.expect(&Digest::sha256(&bytes));
        assert_eq!(images.about(&store, &digest("a")).size, None);
        let origin = Origin {
            registry: "quay.io".parse().expect("a registry"),
            repository: "a/b".parse().expect("a repository"),
        };
        store.put(&origin, bytes);
        let about = images.about(&store, &digest("a"));
        assert_eq!((about.size, about.leader), (Some(7), None));
    }

    #[test]
    fn another_image_comes_as_long_as_layers_of_it_are_missing() {
        let images = Images::default();
        let layers = |names: [&str; 2]| names.map(digest);
        images.learn(&manifest(&[("a", 1), ("b", 1)]), None);
        let come = |here: &[Digest]| {
            images.others_come(&layers(["a", "b"]), |layer: &Digest| here.contains(layer))
        };
        assert!(!come(&[]), "no other");
        images.learn(&manifest(&[("b", 1), ("c", 1)]), None);
        assert!(come(&[]));
        assert!(!come(&[digest("c")]));
    }

    #[test]
    fn what_is_no_manifest_says_nothing() {
        let images = Images::default();
        images.learn(b"{}", None);
        assert_eq!(images.objects.lock().len(), 0);
    }
}
