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
//! # What survives a crash An object enters `blobs/` by one rename, after its bytes were verified and synced and after
//! the journal, synced too, names its visibility. So whatever moment the power goes, an object is there whole or not at
//! all, and a private one never turns up as shared. An object that the journal does not know is somebody else's work:
//! it is verified when first seen and counts as private, since nobody can say what it took to get it. A crash can lose
//! the last minute of use times (used for removal only) and the latest tags (resolved again).
//!
//! # What is damaged
//! An object is trusted for as long as its file is the one that was verified: the same inode, size and times. Any other
//! is compared with its digest before its end is handed out, each object so once after a start, by the background if
//! nobody asks for it. One that is wrong, unreadable or gone is no longer counted, removed, and fetched anew when it is
//! asked for. An index of ours that lost its bytes is put aside as `index.json.damaged`: tags are asked for again.
//!
//! # A disk that takes no more
//! A store on a full or read-only disk is opened all the same and serves what it has. What cannot be written fails its
//! own intake and nothing else, is told once in the log and by `health` until as much can be written again, and changes
//! neither what is on disk nor what is known of it: the journal and the index are written anew when they can be.
//!
//! # What is removed Objects are removed one by one, because missing layers are fetched again. The least recently used
//! goes first, from two groups: *small* objects (manifests and configs, up to 64 KiB) are kept as long as they take no
//! more than an eighth of the limit, *large* ones go first. So a tag goes on resolving after its layers have made room
//! for others. What is being taken in is never removed; its size is promised to it from the moment it is known, and
//! others make room as its bytes arrive. A folder that holds more than the limit when it is opened is brought down to
//! it by what the journal knows: ours.
//!
//! # Folders of others
//! A layout that another tool made is adopted: from then on it is ours, and what is in it makes room like the rest. But
//! opening removes nothing that the journal did not know before. What does not fit the limit is refused, and so is a
//! folder that is no layout and not empty, such as containerd's content store. A file that is not what its name says is
//! refused in a layout that is adopted, and left unserved in one that was ours before.

mod checks;
mod disk;
mod error;
mod files;
mod folder;
mod housekeeper;
mod identity;
mod index;
mod inspect;
mod intake;
mod journal;
mod load;
mod metrics;
mod reading;
mod removal;
mod space;
mod store;
mod tags;
mod verify;

pub use error::OpenError;
pub use store::{Layout, Options};

#[cfg(test)]
mod tests;
