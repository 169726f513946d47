//! The images that this node holds, to be shown.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use oci::{Digest, Key, Manifest};
use tokio::time::sleep;

use crate::mirror::Mirror;
use crate::{Candidate, Catalog, Store, Visibility, local};

/// The least characters of a search that is compared with digests: shorter ones would match most.
const MIN_DIGEST: usize = 6;
/// The most children of an index that are read.
const MAX_MANIFESTS: usize = 64;
/// The limit for finding other nodes with an object, and the most that are named.
const HOLDERS_LIMIT: Duration = Duration::from_millis(300);
const MAX_HOLDERS: usize = 16;

/// The content of a node, and the images in it that match a search. Sizes are in bytes.
#[derive(Clone, Debug, Default)]
pub struct HeldImages {
    /// The number of images by name, of objects, and of their bytes.
    pub images: usize,
    pub objects: usize,
    pub bytes: u64,
    /// The number of matches, and the first of them.
    pub found: usize,
    pub listed: Vec<HeldImage>,
}

/// An image, or an object without an image.
#[derive(Clone, Debug)]
pub struct HeldImage {
    pub name: String,
    pub digest: Digest,
    /// The bytes of its objects that are here.
    pub bytes: u64,
    pub objects: usize,
    pub is_shared: bool,
}

impl Mirror {
    /// The images whose name or digest contains a text, at most `most`. Reads the disk.
    pub fn held_images(&self, search: &str, most: usize) -> HeldImages {
        let catalog = self.store.catalog();
        let digests = catalog.digests();
        let sizes = digests
            .iter()
            .filter_map(|digest| Some(catalog.object(digest)?.size));
        let mut held = HeldImages {
            images: catalog.tags().len(),
            objects: digests.len(),
            bytes: sizes.fold(0, u64::saturating_add),
            ..HeldImages::default()
        };
        let matches = matching(catalog, &digests, search);
        held.found = matches.len();
        let listed = matches.into_iter().take(most);
        held.listed = listed
            .filter_map(|(name, digest)| held_image(&*self.store, name, digest))
            .collect();
        held
    }

    /// Other nodes that have an object, as far as they are found in a moment.
    pub async fn holders(&self, digest: &Digest) -> Vec<Candidate> {
        let mut search = self.router.find(&Key::Digest(digest.clone()));
        let mut holders: Vec<Candidate> = Vec::new();
        let mut end = std::pin::pin!(sleep(HOLDERS_LIMIT));
        while holders.len() < MAX_HOLDERS {
            let next = tokio::select! {
                next = search.next() => next,
                () = &mut end => None,
            };
            match next {
                Some(holder) if holders.iter().all(|known| known.peer != holder.peer) => {
                    holders.push(holder);
                }
                Some(_) => {}
                None => break,
            }
        }
        holders
    }
}

/// The matching names, in order, with their digests; objects without a name if the search is for a digest.
fn matching(catalog: &Catalog, digests: &[Digest], search: &str) -> BTreeMap<String, Digest> {
    let search = search.to_lowercase();
    let is_of_digest =
        |digest: &Digest| search.len() >= MIN_DIGEST && digest.as_str().contains(search.as_str());
    let tags = catalog.tags().into_iter();
    let tags = tags.map(|(name, digest)| (name.to_string(), digest));
    let mut found: BTreeMap<_, _> = tags
        .filter(|(name, digest)| name.to_lowercase().contains(&search) || is_of_digest(digest))
        .collect();
    let named: HashSet<_> = found.values().cloned().collect();
    for digest in digests
        .iter()
        .filter(|digest| is_of_digest(digest) && !named.contains(*digest))
    {
        let object = catalog.object(digest);
        let origin = object.and_then(|object| object.origins.first().cloned());
        let name = origin.map_or_else(|| digest.to_string(), |origin| format!("{origin}@{digest}"));
        found.insert(name, digest.clone());
    }
    found
}

fn held_image(store: &dyn Store, name: String, digest: Digest) -> Option<HeldImage> {
    let object = store.catalog().object(&digest)?;
    let mut parts = HashSet::from([digest.clone()]);
    let children = children(store, &digest);
    for child in children.iter().take(MAX_MANIFESTS) {
        if parts.insert(child.clone()) {
            parts.extend(self::children(store, child));
        }
    }
    parts.extend(children);
    let sizes = parts
        .iter()
        .filter_map(|part| Some(store.catalog().object(part)?.size));
    let (objects, bytes) = sizes.fold((0, 0_u64), |(n, sum), size| {
        (n + 1, sum.saturating_add(size))
    });
    Some(HeldImage {
        name,
        digest,
        bytes,
        objects,
        is_shared: object.visibility == Visibility::Shared,
    })
}

/// The descriptors in a manifest or an index.
fn children(store: &dyn Store, digest: &Digest) -> Vec<Digest> {
    if !local::looks_like_document(store, digest) {
        return Vec::new();
    }
    let bytes = local::manifest_bytes(store, digest);
    let manifest = bytes.and_then(|bytes| Manifest::parse(&bytes).ok());
    let children = manifest
        .map(|manifest| manifest.children)
        .unwrap_or_default();
    children.into_iter().map(|child| child.digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Object;
    use crate::memory::MemoryStore;

    #[test]
    fn images_are_found_by_name_and_by_digest_and_objects_by_digest() {
        let store = MemoryStore::default();
        let catalog = store.catalog();
        let [app, layer] = [b"app", b"lay"].map(|text| Digest::sha256(text));
        for digest in [&app, &layer] {
            let object = Object {
                size: 3,
                ..Object::default()
            };
            catalog.insert(digest.clone(), object);
        }
        let name = oci::TagName {
            origin: oci::Origin {
                registry: "a.io".parse().expect("a registry"),
                repository: "Team/app".to_lowercase().parse().expect("a repository"),
            },
            tag: "v1".parse().expect("a tag"),
        };
        catalog.tag(name, app.clone());
        let found = |search: &str| -> Vec<_> {
            matching(catalog, &catalog.digests(), search)
                .into_keys()
                .collect()
        };
        assert_eq!(found(""), ["a.io/team/app:v1"]);
        assert_eq!(found("TEAM/APP"), ["a.io/team/app:v1"]);
        assert_eq!(found(&app.as_str()[7..20]), ["a.io/team/app:v1"]);
        assert_eq!(found(layer.as_str()), [layer.to_string()]);
        assert!(found("nothing").is_empty() && found("sha").is_empty());
        let shown = held_image(&store, "x".into(), app).expect("it is here");
        assert_eq!((shown.bytes, shown.objects, shown.is_shared), (3, 1, false));
    }
}
