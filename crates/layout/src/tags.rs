//! The tags of the catalog by their targets, so that they are removed with their manifests without a search.

use std::collections::{BTreeSet, HashMap};

use mirror::Catalog;
use oci::{Digest, TagName};

/// Every tag points to an object that is here.
#[derive(Default)]
pub(crate) struct Tags {
    names: HashMap<Digest, BTreeSet<TagName>>,
}

impl Tags {
    /// Points a tag to an object that is here. Returns whether this is a change.
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

    /// Removes a tag. Returns whether it existed.
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

    /// Removes the tags of a removed object. Returns whether it had any.
    pub(crate) fn forget(&mut self, catalog: &Catalog, digest: &Digest) -> bool {
        let names = self.names.remove(digest);
        for name in names.iter().flatten() {
            catalog.untag(name);
        }
        names.is_some()
    }
}
