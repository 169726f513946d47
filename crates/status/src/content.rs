//! The content of a node.

use serde::{Deserialize, Serialize};

/// The images of a node that match a search. Sizes are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Content {
    pub node: String,
    pub version: String,
    /// The search text; empty: all.
    pub query: String,
    /// The total of the node: images by name, objects, and their bytes.
    pub images: usize,
    pub objects: usize,
    pub bytes: u64,
    /// The number of matching images; `listed` has at most a hundred.
    pub found: usize,
    pub listed: Vec<Image>,
}

/// An image by one of its names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Image {
    /// The registry, repository and tag; or the digest, if there is no tag.
    pub name: String,
    pub digest: String,
    /// The bytes of its objects that are here: the manifest and its objects.
    pub bytes: u64,
    pub objects: usize,
    /// Whether peers get it from this node.
    pub is_shared: bool,
    /// Other nodes that have the manifest, by name. `None`: they were not looked up.
    pub holders: Option<Vec<String>>,
}
