//! The content of a node, in memory: every store has a catalog, so that requests are answered without asking
//! containerd.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;

use lru::LruCache;
use oci::{Digest, Filter, Key, Origin, TagName};
use parking_lot::{Mutex, RwLock};
use tokio::sync::broadcast;

use crate::trial::repository::is_trial;
use crate::verification::{Examined, FileIdentity};

/// The most changes by which a slow listener may lag before it must read everything again.
const CHANGE_QUEUE: usize = 1024;
/// The most files to remember as examined.
const MAX_EXAMINED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// The most objects to withhold.
const MAX_WITHHELD: usize = 4096;

/// Which clients may have an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// All clients that the access policy admits.
    Shared,
    /// Only this node's own clients: upstream gave it for this node's credentials, or its provenance is unknown.
    #[default]
    Private,
}

/// A complete object of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// The size in bytes.
    pub size: u64,
    /// The registries and repositories under which the node holds it. Empty: unknown.
    pub origins: BTreeSet<Origin>,
    pub visibility: Visibility,
}

/// The objects and tags of a store. Cheap to read; all listeners are notified of changes.
#[derive(Debug)]
pub struct Catalog {
    inner: RwLock<Inner>,
    changes: broadcast::Sender<Key>,
    examined: Mutex<LruCache<Digest, (FileIdentity, Examined)>>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: HashMap<Digest, Object>,
    /// Damaged objects: not listed until they have been removed.
    withheld: HashSet<Digest>,
    tags: HashMap<TagName, Digest>,
    /// The tags by their targets: a tag is added and removed with its manifest.
    tags_of: HashMap<Digest, BTreeSet<TagName>>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            inner: RwLock::default(),
            changes: broadcast::Sender::new(CHANGE_QUEUE),
            examined: Mutex::new(LruCache::new(MAX_EXAMINED)),
        }
    }
}

impl Catalog {
    pub fn object(&self, digest: &Digest) -> Option<Object> {
        self.inner.read().objects.get(digest).cloned()
    }

    /// Which clients may have an object. `None`: the catalog does not know it.
    pub fn visibility(&self, digest: &Digest) -> Option<Visibility> {
        let inner = self.inner.read();
        inner.objects.get(digest).map(|object| object.visibility)
    }

    pub fn resolve(&self, name: &TagName) -> Option<Digest> {
        self.inner.read().tags.get(name).cloned()
    }

    /// Adds an object, or replaces what is known about it. A withheld object stays withheld.
    pub fn insert(&self, digest: Digest, object: Object) {
        let mut inner = self.inner.write();
        if !inner.withheld.contains(&digest) && inner.objects.get(&digest) != Some(&object) {
            inner.objects.insert(digest.clone(), object);
            self.changed(&inner, digest);
        }
    }

    /// Hides a damaged object until [`Self::remove`] is called for it: its replacement is listed.
    pub fn withhold(&self, digest: &Digest) {
        let mut inner = self.inner.write();
        if inner.withheld.len() < MAX_WITHHELD {
            inner.withheld.insert(digest.clone());
        }
        if inner.objects.remove(digest).is_some() {
            self.changed(&inner, digest.clone());
        }
    }

    /// The result of examining a file, if it has not changed since.
    pub(crate) fn examined(&self, digest: &Digest, identity: &FileIdentity) -> Option<Examined> {
        let mut files = self.examined.lock();
        let (of, examined) = files.get(digest)?;
        (of == identity).then(|| examined.clone())
    }

    /// Whether an object is a manifest, if it was ever examined: a digest has one content.
    pub(crate) fn is_manifest(&self, digest: &Digest) -> Option<bool> {
        let mut files = self.examined.lock();
        files.get(digest).map(|(_, examined)| examined.is_manifest)
    }

    pub(crate) fn note_examined(&self, digest: &Digest, file: FileIdentity, examined: Examined) {
        self.examined.lock().put(digest.clone(), (file, examined));
    }

    pub fn remove(&self, digest: &Digest) {
        let mut inner = self.inner.write();
        inner.withheld.remove(digest);
        if inner.objects.remove(digest).is_some() {
            self.changed(&inner, digest.clone());
        }
    }

    pub fn tag(&self, name: TagName, digest: Digest) {
        let mut inner = self.inner.write();
        if inner.tags.get(&name) != Some(&digest) {
            inner.untag(&name);
            inner
                .tags_of
                .entry(digest.clone())
                .or_default()
                .insert(name.clone());
            inner.tags.insert(name.clone(), digest);
            self.tell(Key::Tag(name));
        }
    }

    pub fn untag(&self, name: &TagName) {
        if self.inner.write().untag(name) {
            self.tell(Key::Tag(name.clone()));
        }
    }

    /// The keys that change from now on. The listener reads the new state from the catalog. A listener that lags reads
    /// [`Self::keys`] again.
    pub fn changes(&self) -> broadcast::Receiver<Key> {
        self.changes.subscribe()
    }

    /// Every digest and tag in the catalog.
    pub fn keys(&self) -> Vec<Key> {
        let inner = self.inner.read();
        let digests = inner.objects.keys().cloned().map(Key::Digest);
        digests
            .chain(inner.tags.keys().cloned().map(Key::Tag))
            .collect()
    }

    /// Every digest in the catalog.
    pub fn digests(&self) -> Vec<Digest> {
        self.inner.read().objects.keys().cloned().collect()
    }

    /// Every tag in the catalog and its target.
    pub fn tags(&self) -> Vec<(TagName, Digest)> {
        let inner = self.inner.read();
        inner
            .tags
            .iter()
            .map(|(name, digest)| (name.clone(), digest.clone()))
            .collect()
    }

    /// Whether this key may be announced to peers: it is here, not private, not of a trial image, and belongs to a
    /// repository that the filter admits. A tag counts as here only together with its manifest.
    pub fn announces(&self, key: &Key, filter: &Filter) -> bool {
        let inner = self.inner.read();
        let digest = match key {
            Key::Digest(digest) => Some(digest),
            Key::Tag(name) => inner.tags.get(name),
        };
        digest
            .and_then(|d| inner.objects.get(d))
            .is_some_and(|object| {
                let origins = object.origins.iter().filter(|origin| !is_trial(origin));
                object.visibility == Visibility::Shared && filter.admits_key(key, origins.cloned())
            })
    }

    fn changed(&self, inner: &Inner, digest: Digest) {
        for name in inner.tags_of.get(&digest).into_iter().flatten() {
            self.tell(Key::Tag(name.clone()));
        }
        self.tell(Key::Digest(digest));
    }

    fn tell(&self, key: Key) {
        // An error means that there is no listener yet.
        let _ = self.changes.send(key);
    }
}

impl Inner {
    /// Removes a tag. Returns whether it existed.
    fn untag(&mut self, name: &TagName) -> bool {
        let Some(digest) = self.tags.remove(name) else {
            return false;
        };
        if let Some(names) = self.tags_of.get_mut(&digest) {
            names.remove(name);
            if names.is_empty() {
                self.tags_of.remove(&digest);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TagName {
        text.parse::<oci::Name>()
            .ok()
            .and_then(|n| n.tag_name())
            .expect("a tag in full")
    }

    fn object(origins: &[&TagName]) -> Object {
        Object {
            size: 1,
            origins: origins.iter().map(|n| n.origin.clone()).collect(),
            visibility: Visibility::Shared,
        }
    }

    #[test]
    fn tells_changes_and_only_changes() {
        let (catalog, v1, digest) = (
            Catalog::default(),
            name("quay.io/a/b:1"),
            Digest::sha256(b"m"),
        );
        let mut changes = catalog.changes();
        catalog.insert(digest.clone(), object(&[&v1]));
        catalog.insert(digest.clone(), object(&[&v1]));
        catalog.tag(v1.clone(), digest.clone());
        catalog.tag(v1.clone(), digest.clone());
        catalog.remove(&digest);
        catalog.remove(&digest);
        let told: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
        let (digest, tag) = (Key::Digest(digest), Key::Tag(v1));
        assert_eq!(
            told,
            [digest.clone(), tag.clone(), tag, digest],
            "a tag goes with its manifest"
        );
    }

    #[test]
    fn what_is_damaged_is_listed_again_once_it_was_replaced() {
        let (catalog, v1) = (Catalog::default(), name("quay.io/a/b:1"));
        let digest = Digest::sha256(b"m");
        catalog.insert(digest.clone(), object(&[&v1]));
        let mut changes = catalog.changes();
        catalog.withhold(&digest);
        assert_eq!(changes.try_recv(), Ok(Key::Digest(digest.clone())));
        catalog.insert(digest.clone(), object(&[&v1]));
        assert_eq!(catalog.object(&digest), None, "found by a listing");
        catalog.remove(&digest);
        catalog.insert(digest.clone(), object(&[&v1]));
        assert!(catalog.object(&digest).is_some());
    }

    #[test]
    fn announces_what_is_here_shared_and_admitted() {
        let (catalog, v1, digest) = (
            Catalog::default(),
            name("quay.io/a/b:1"),
            Digest::sha256(b"m"),
        );
        let all = Filter::default();
        let (by_digest, by_tag) = (Key::Digest(digest.clone()), Key::Tag(v1.clone()));
        catalog.tag(v1.clone(), digest.clone());
        assert!(
            !catalog.announces(&by_tag, &all),
            "a tag without its manifest"
        );
        catalog.insert(digest.clone(), object(&[]));
        assert!(
            !catalog.announces(&by_digest, &all),
            "an object of no known origin"
        );
        catalog.insert(digest.clone(), object(&[&v1]));
        assert!(catalog.announces(&by_digest, &all) && catalog.announces(&by_tag, &all));
        let ghcr = Filter::new(&["https://ghcr.io".into()], &[]).expect("sound");
        assert!(!catalog.announces(&by_digest, &ghcr) && !catalog.announces(&by_tag, &ghcr));
        let trial = name("a.invalid/peili-mirror-trial/0a:1");
        catalog.insert(digest.clone(), object(&[&trial]));
        assert!(!catalog.announces(&by_digest, &all), "an image of a trial");
        catalog.insert(
            digest,
            Object {
                visibility: Visibility::Private,
                ..object(&[&v1])
            },
        );
        assert!(!catalog.announces(&by_digest, &all) && !catalog.announces(&by_tag, &all));
    }
}
