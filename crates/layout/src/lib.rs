//! A separate store for hosts without containerd: an OCI image layout on disk.
//!
//! The folder is what the image specification calls an image layout
//! ([image-layout.md](https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md)), so skopeo and similar
//! tools can read it:
//!
//! ```text
//! oci-layout  index.json  blobs/<algorithm>/<hex>    the layout; tags are `ref.name` annotations in index.json
//! ingest/                                            what is being taken in or removed; emptied at the start
//! peili.journal  peili.lock                          what an image layout has no place for; held by one process
//! ```
//!
//! # What survives a crash
//! An object enters `blobs/` by one rename, after its bytes were verified and synced, and after the journal, also
//! synced,
//! contains its visibility. So at any power failure an object is there whole or not at all, and a private one never
//! becomes
//! shared. An object that the journal does not know was added by another program: it is verified when first seen and
//! counts
//! as private, since it is unknown what was needed to get it. A crash can lose the last minute of times of use (used
//! for
//! removal only) and the latest tags (resolved again).
//!
//! # Damage
//! An object is trusted for as long as its file is the one that was verified: the same inode, size and times. Otherwise
//! it
//! is compared with its digest before its end is sent, each object once after a start, in the background if no client
//! asks
//! for it. An object that is wrong, unreadable or gone no longer counts, is removed, and is fetched again on request. A
//! Peili index that lost its bytes is set aside as `index.json.damaged`, and tags are resolved again.
//!
//! # A full disk
//! A store on a full or read-only disk is opened and serves its content. A failed write fails only its own intake. It
//! is
//! reported once in the log, and by `health` until as much can be written again. It changes neither the files on disk
//! nor
//! what is known of them: the journal and the index are rewritten once that is possible.
//!
//! # Eviction
//! Objects are removed one by one, because missing layers are fetched again. The least recently used goes first, from
//! two
//! groups: *small* objects (manifests and configs, up to 64 KiB) are kept as long as they take no more than an eighth
//! of
//! the limit, *large* ones go first. So a tag still resolves after its layers have made room for others. An object that
//! is
//! being taken in is never removed; its size is reserved from the moment it is known, and others make room as its bytes
//! arrive. A folder that exceeds the limit when it is opened is brought down to it by removing objects that the journal
//! knows.
//!
//! # Foreign folders
//! A layout of another tool is adopted: from then on its objects make room like the rest. But opening removes nothing
//! that
//! the journal did not know before. A layout that exceeds the limit is refused, and so is a non-empty folder that is no
//! layout, such as containerd's content store. A file whose content does not match its name is refused in a layout that
//! is
//! adopted, and left unserved in one that was Peili's before.

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
pub use store::{Layout, Options, Writers};

#[cfg(test)]
mod tests;
