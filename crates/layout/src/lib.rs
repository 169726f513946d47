//! A store of its own for hosts without containerd: an OCI image layout on disk.
//!
//! The folder is what the image specification calls an image layout
//! ([image-layout.md](https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md)), so skopeo and its
//! like read it as it is:
//!
//! ```text
//! oci-layout  index.json  blobs/<algorithm>/<hex>    the layout; tags are `ref.name` annotations in index.json
//! ingest/                                            what is being taken in or removed; emptied at the start
//! peili.journal  peili.lock                          what an image layout has no place for; held by one process
//! ```
//!
//! # What survives a crash
//! An object enters `blobs/` by one rename, after its bytes were verified and synced and after the journal, synced
//! too, names its visibility. So whatever moment the power goes, an object is there whole or not at all, and a
//! private one never turns up as shared. An object that the journal does not know is somebody else's work: it is
//! verified when first seen and counts as private, since nobody can say what it took to get it. Lost may be the last
//! minute of use times (they decide removal only) and tags of the last moments (they are asked for again).
//!
//! # What is removed
//! Every object stands alone: a mirror answers for one digest at a time, so a manifest whose layers were removed is
//! no lie, they are fetched again. Removed is what was used longest ago, from two groups: *small* objects (manifests
//! and configs, up to 64 KiB) are kept as long as they take no more than an eighth of the limit, *large* ones go
//! first. So a tag goes on resolving after its layers have made room for others. What is being taken in is never
//! removed; its size is promised to it from the moment it is known, and others make room as its bytes arrive. A folder
//! that holds more than the limit when it is opened is brought down to it by what the journal knows: ours.
//!
//! # Folders of others
//! A layout that another tool made is adopted: from then on it is ours, and what is in it makes room like the rest. But
//! opening removes nothing that the journal did not know before. What does not fit the limit or is not what its name
//! says is refused; so is a folder that is no layout and not empty, such as containerd's content store.

mod error;
mod files;
mod folder;
mod housekeeper;
mod index;
mod intake;
mod journal;
mod load;
mod metrics;
mod space;
mod store;
mod tags;

pub use error::OpenError;
pub use store::{Layout, Options};

#[cfg(test)]
mod tests;
