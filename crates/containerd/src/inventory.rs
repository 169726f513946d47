//! The known content and images of a node, and the catalog entries that follow. Pure state, without the calls that
//! collect it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use mirror::{Catalog, Object, Visibility};
use oci::{Digest, Name, Origin, TagName};

/// An image's name in one of the namespaces. Ordered by name, then as the namespaces are configured, so that the first
/// entry of a name counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ImageKey {
    pub name: String,
    /// The position in the configured namespaces.
    pub namespace: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub target: Digest,
    /// The parsed name of the key.
    pub name: Name,
    /// The objects that belong to the image's registry and repository by its name.
    pub reached: Vec<Digest>,
}

/// The result of listing everything, from about the same time.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The blobs on disk, with their sizes in bytes.
    pub files: HashMap<Digest, u64>,
    /// The blobs among them that may still get labels.
    pub new: Vec<Digest>,
    /// The content of the namespaces, with the origins in its labels.
    pub labels: HashMap<Digest, BTreeSet<Origin>>,
    pub images: BTreeMap<ImageKey, Image>,
}

impl Listing {
    /// Whether containerd holds content and none of it is in the folder.
    pub fn lacks_all_files(&self) -> bool {
        !self.labels.is_empty() && !self.labels.keys().any(|d| self.files.contains_key(d))
    }
}

#[derive(Clone, Debug, Default)]
struct Blob {
    /// The size in bytes. `None`: not on disk.
    size: Option<u64>,
    /// The origins in its labels. `None`: it is in none of the namespaces, as far as is known.
    labels: Option<BTreeSet<Origin>>,
}

/// Keeps a catalog up to date with what is known. An object is in the catalog if its file is on disk and one of the
/// namespaces has it; its origins are those of its labels and of the image names that lead to it.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    blobs: HashMap<Digest, Blob>,
    images: BTreeMap<ImageKey, Image>,
    /// The origins from images' names, each as often as images name it.
    named: HashMap<Digest, Vec<Origin>>,
    /// What has been learned since the running listing began, and is newer than its result.
    newer: Newer,
}

#[derive(Debug, Default)]
struct Newer {
    blobs: HashSet<Digest>,
    images: HashSet<ImageKey>,
}

impl Inventory {
    /// Records that a listing begins.
    pub fn begin_listing(&mut self) {
        self.newer = Newer::default();
    }

    /// Applies the result of a listing. It replaces everything except what was learned since it began.
    pub fn apply(&mut self, listing: Listing, catalog: &Catalog) {
        let Listing {
            files,
            labels,
            images,
            new: _,
        } = listing;
        let mut blobs: HashMap<Digest, Blob> = HashMap::with_capacity(files.len());
        for (digest, size) in files {
            blobs.entry(digest).or_default().size = Some(size);
        }
        for (digest, origins) in labels {
            blobs.entry(digest).or_default().labels = Some(origins);
        }
        let newer = std::mem::take(&mut self.newer);
        replace_newer(&mut blobs, newer.blobs, |d| self.blobs.remove(d));
        self.blobs = blobs;

        let mut images: HashMap<ImageKey, Image> = images.into_iter().collect();
        replace_newer(&mut images, newer.images, |k| self.images.remove(k));
        self.images = images.into_iter().collect();
        self.named = HashMap::new();
        for image in self.images.values() {
            name(&mut self.named, image);
        }
        self.publish_all(catalog);
    }

    /// Records that a blob is on disk with this size in bytes, or no longer on disk.
    pub fn file(&mut self, digest: &Digest, size: Option<u64>, catalog: &Catalog) {
        self.newer.blobs.insert(digest.clone());
        match size {
            Some(_) => self.blobs.entry(digest.clone()).or_default().size = size,
            // Labels of a collected blob do not apply to a later one with the same digest.
            None => drop(self.blobs.remove(digest)),
        }
        self.publish(digest, catalog);
    }

    /// Records the origins in an object's labels, or that it is in none of the namespaces.
    pub fn labels(&mut self, digest: &Digest, labels: Option<BTreeSet<Origin>>, catalog: &Catalog) {
        self.newer.blobs.insert(digest.clone());
        self.blobs.entry(digest.clone()).or_default().labels = labels;
        self.publish(digest, catalog);
    }

    /// Records an image, or that this namespace has none of that name any more.
    pub fn image(&mut self, key: &ImageKey, image: Option<Image>, catalog: &Catalog) {
        self.newer.images.insert(key.clone());
        let before = match image {
            Some(image) => {
                name(&mut self.named, &image);
                self.publish_each(&image.reached, catalog);
                self.images.insert(key.clone(), image)
            }
            None => self.images.remove(key),
        };
        if let Some(before) = &before {
            self.unname(before);
            self.publish_each(&before.reached, catalog);
        }
        let now = self.images.get(key);
        let tag = now.or(before.as_ref()).and_then(|i| tag_name(&i.name));
        if let Some(tag) = tag {
            match self.pointed_at(&key.name) {
                Some(target) => catalog.tag(tag, target),
                None => catalog.untag(&tag),
            }
        }
    }

    /// Whether the origin of an object is known, from its labels or an image's name.
    pub fn is_placed(&self, digest: &Digest) -> bool {
        let labels = self.blobs.get(digest).and_then(|b| b.labels.as_ref());
        labels.is_some_and(|l| !l.is_empty() || self.named.contains_key(digest))
    }

    /// Whether the labels of an object name this origin.
    pub fn is_labelled(&self, digest: &Digest, origin: &Origin) -> bool {
        let labels = self.blobs.get(digest).and_then(|b| b.labels.as_ref());
        labels.is_some_and(|l| l.contains(origin))
    }

    pub fn is_on_disk(&self, digest: &Digest) -> bool {
        self.blobs.get(digest).is_some_and(|b| b.size.is_some())
    }

    fn pointed_at(&self, name: &str) -> Option<Digest> {
        let from = ImageKey {
            name: name.to_owned(),
            namespace: 0,
        };
        let (key, image) = self.images.range(from..).next()?;
        (key.name == name).then(|| image.target.clone())
    }

    fn unname(&mut self, image: &Image) {
        for digest in &image.reached {
            let Some(origins) = self.named.get_mut(digest) else {
                continue;
            };
            if let Some(place) = origins.iter().position(|o| *o == image.name.origin) {
                origins.swap_remove(place);
            }
            if origins.is_empty() {
                self.named.remove(digest);
            }
        }
    }

    fn object(&self, digest: &Digest) -> Option<Object> {
        let blob = self.blobs.get(digest)?;
        let (size, mut origins) = (blob.size?, blob.labels.clone()?);
        origins.extend(self.named.get(digest).into_iter().flatten().cloned());
        Some(Object {
            size,
            origins,
            visibility: Visibility::Shared,
        })
    }

    fn publish(&mut self, digest: &Digest, catalog: &Catalog) {
        match self.object(digest) {
            Some(object) => catalog.insert(digest.clone(), object),
            None => catalog.remove(digest),
        }
        if let Some(Blob {
            size: None,
            labels: None,
        }) = self.blobs.get(digest)
        {
            self.blobs.remove(digest);
        }
    }

    fn publish_each(&mut self, digests: &[Digest], catalog: &Catalog) {
        for digest in digests {
            self.publish(digest, catalog);
        }
    }

    fn publish_all(&mut self, catalog: &Catalog) {
        for digest in catalog.digests() {
            if !self.blobs.contains_key(&digest) {
                catalog.remove(&digest);
            }
        }
        let digests: Vec<Digest> = self.blobs.keys().cloned().collect();
        self.publish_each(&digests, catalog);

        let mut tags = HashMap::new();
        for image in self.images.values() {
            if let Some(tag) = tag_name(&image.name) {
                tags.entry(tag).or_insert_with(|| image.target.clone());
            }
        }
        for (tag, _) in catalog.tags() {
            if !tags.contains_key(&tag) {
                catalog.untag(&tag);
            }
        }
        for (tag, target) in tags {
            catalog.tag(tag, target);
        }
    }
}

/// Replaces entries of a listing with newer ones.
fn replace_newer<K: std::hash::Hash + Eq, V>(
    listed: &mut HashMap<K, V>,
    newer: HashSet<K>,
    mut now: impl FnMut(&K) -> Option<V>,
) {
    for key in newer {
        match now(&key) {
            Some(value) => listed.insert(key, value),
            None => listed.remove(&key),
        };
    }
}

fn name(named: &mut HashMap<Digest, Vec<Origin>>, image: &Image) {
    for digest in &image.reached {
        let origins = named.entry(digest.clone()).or_default();
        origins.push(image.name.origin.clone());
    }
}

/// The tag in an image's name. A name that also has a digest says what the tag once was, not what it is.
fn tag_name(name: &Name) -> Option<TagName> {
    name.tag_name().filter(|_| name.digest.is_none())
}

#[cfg(test)]
#[path = "inventory/tests.rs"]
mod tests;
