//! The tags of the catalog by what they point at, so that they go with their manifests without looking at them all.

use std::collections::{BTreeSet, HashMap};

use mirror::Catalog;
use oci::{Digest, TagName};

/// Every tag points at an object that is here.
#[derive(Default)]
pub(crate) struct Tags {
    names: HashMap<Digest, BTreeSet<TagName>>,
}

impl Tags {
    /// Points a tag at an object that is here. Whether that is new.
    pub(crate) fn set(&mut self, catalog: &Catalog, name: &TagName, digest: &Digest) -> bool {
        if catalog.resolve(name).as_ref() == Some(digest) {
            return false;
        }
        self.remove(catalog, name);
        let names = self.names.entry(digest.clone()).or_default();
        names.insert(name.clone());
        catalog.tag(name.clone(), digest.clone());
        true
    }

    /// Whether there was such a tag.
    pub(crate) fn remove(&mut self, catalog: &Catalog, name: &TagName) -> bool {
        let Some(digest) = catalog.resolve(name) else {
            return false;
        };
        if let Some(names) = self.names.get_mut(&digest) {
            names.remove(name);
            if names.is_empty() {
                self.names.remove(&digest);
            }
        }
        catalog.untag(name);
        true
    }

    /// Removes the tags of an object that goes. Whether it had any.
    pub(crate) fn forget(&mut self, catalog: &Catalog, digest: &Digest) -> bool {
        let names = self.names.remove(digest);
        for name in names.iter().flatten() {
            catalog.untag(name);
        }
        names.is_some()
    }
}
