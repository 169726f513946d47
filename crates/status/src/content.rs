//! What a node holds.

use serde::{Deserialize, Serialize};

/// The images of a node that match a search. Sizes are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Content {
    pub node: String,
    pub version: String,
    /// What was searched for; empty: all.
    pub query: String,
    /// All that the node holds: images by name, objects, and their bytes.
    pub images: usize,
    pub objects: usize,
    pub bytes: u64,
    /// How many images match; `listed` has a hundred at the most.
    pub found: usize,
    pub listed: Vec<Image>,
}

/// An image by one of its names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Image {
    /// Registry, repository and tag; or digest, where it has no tag.
    pub name: String,
    pub digest: String,
    /// Of its objects that are here: the manifest and what it names.
    pub bytes: u64,
    pub objects: usize,
    /// Whether peers get it from this node.
    pub is_shared: bool,
    /// Other nodes that have the manifest, by name. `None`: they were not looked up.
    pub holders: Option<Vec<String>>,
}
