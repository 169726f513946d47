//! What this node holds, to be shown.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use oci::{Digest, Filter, Key, Manifest, Role};
use serde::{Deserialize, Serialize};

use crate::{Catalog, Store, local};

/// The most tags that are listed, in the order of their names.
const MAX_IMAGES: usize = 1024;
/// The most manifests of one image that are read.
const MAX_MANIFESTS: usize = 64;
/// Sizes are found out for as long; the tags that are left have none. Less than a disk may take, see
/// [`local::read_store`].
const SIZE_LIMIT: Duration = Duration::from_secs(1);

/// What a node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Holdings {
    /// The tags by name; of many, the first 1024.
    pub images: Vec<Image>,
    /// How many tags there are in all.
    pub tags: usize,
    /// How many manifests, configs and layers there are.
    pub objects: usize,
    /// How many of them peers are told of.
    pub announced: usize,
    /// The size of all objects in bytes.
    pub bytes: u64,
}

/// A tag of a node's store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Image {
    /// Registry, repository and tag.
    pub name: String,
    /// What the tag points at on this node.
    pub digest: String,
    /// The size in bytes of those objects of the image that are here; `null` if its manifest cannot be read.
    pub size: Option<u64>,
    /// Whether peers are told of the tag.
    pub is_announced: bool,
}

impl Holdings {
    /// Reads the disk: call it where that holds up nobody else.
    pub fn of(store: &dyn Store, filter: &Filter) -> Self {
        let catalog = store.catalog();
        let (mut announced, mut bytes) = (0, 0_u64);
        let digests = catalog.digests();
        for digest in &digests {
            let key = Key::Digest(digest.clone());
            announced += usize::from(catalog.announces(&key, filter));
            let size = catalog.object(digest).map_or(0, |object| object.size);
            bytes = bytes.saturating_add(size);
        }
        let mut tags = catalog.tags();
        tags.retain(|(_, digest)| catalog.visibility(digest).is_some());
        tags.sort_by_cached_key(|(name, _)| name.to_string());
        let give_up = Instant::now() + SIZE_LIMIT;
        let listed = tags.iter().take(MAX_IMAGES);
        let images = listed.map(|(name, digest)| Image {
            name: name.to_string(),
            digest: digest.to_string(),
            size: (Instant::now() < give_up)
                .then(|| size(store, catalog, digest))
                .flatten(),
            is_announced: catalog.announces(&Key::Tag(name.clone()), filter),
        });
        Self {
            images: images.collect(),
            tags: tags.len(),
            objects: digests.len(),
            announced,
            bytes,
        }
    }
}

/// The size of the objects of an image that are here, each counted once.
fn size(store: &dyn Store, catalog: &Catalog, digest: &Digest) -> Option<u64> {
    let (mut seen, mut total) = (BTreeSet::new(), 0_u64);
    let mut manifests = VecDeque::from([digest.clone()]);
    for _ in 0..MAX_MANIFESTS {
        let Some(digest) = manifests.pop_front() else {
            break;
        };
        let Some(object) = catalog.object(&digest) else {
            continue;
        };
        total = total.saturating_add(object.size);
        let manifest = Manifest::parse(&local::manifest_bytes(store, &digest)?).ok()?;
        for child in manifest.children {
            if !seen.insert(child.digest.clone()) {
                continue;
            }
            match (child.role, catalog.object(&child.digest)) {
                (Role::Manifest, _) => manifests.push_back(child.digest),
                (_, Some(object)) => total = total.saturating_add(object.size),
                (_, None) => {}
            }
        }
    }
    Some(total)
}
