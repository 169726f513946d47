//! Determines which client a pull of this node belongs to, if no node secret proves it.
//!
//! containerd opens an ingest before it sends its request. So the first client that requests the bytes of an open
//! ingest owns the pull for as long as that ingest stays open; any other client that requests the digest meanwhile is a
//! remote client. That may be the containerd of another node that a node port led here, or any other host. A client on
//! this host takes precedence over one elsewhere, because an ingest may wait in containerd's queue before its first
//! request is sent.
//!
//! Clients behind one gateway cannot be distinguished. But the writer of an ingest never requests bytes again that it
//! has, so a request from the start of an ingest that has grown belongs to no pull, whichever client sends it.

use std::num::NonZeroUsize;

use lru::LruCache;
use oci::Digest;
use parking_lot::Mutex;

use crate::open_range::all_from;
use crate::request::{ClientAddress, Target};
use crate::{Ingest, IngestId};

/// The most pulls whose owner is remembered; the least recently requested is forgotten first. A node downloads a dozen
/// objects at a time.
const MAX_PULLS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// The owners of the pulls of this node.
#[derive(Debug)]
pub struct PullOwners(Mutex<LruCache<Digest, Owner>>);

#[derive(Debug)]
struct Owner {
    ingest: IngestId,
    client: ClientAddress,
}

impl Default for PullOwners {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_PULLS)))
    }
}

impl PullOwners {
    /// Whether a client owns the pull that fills this ingest. The first client that asks does.
    pub fn owns(&self, digest: &Digest, ingest: IngestId, client: ClientAddress) -> bool {
        let mut owners = self.0.lock();
        match owners.get(digest) {
            Some(owner) if owner.ingest == ingest && owner.client == client => true,
            Some(owner) if owner.ingest == ingest && client != ClientAddress::ThisHost => false,
            _ => {
                owners.put(digest.clone(), Owner { ingest, client });
                true
            }
        }
    }
}

/// The object and offset of a request whose answer may fill an ingest: one for all bytes from some offset on.
pub fn asks_for_rest(target: &Target) -> Option<(&Digest, u64)> {
    let digest = target.digest().filter(|_| !target.head_only)?;
    Some((digest, all_from(target.ranges.as_ref())?))
}

/// The ingest of the store's owner that the bytes from `offset` on could fill: one that does not have them yet.
pub fn filled(ingest: &Ingest, offset: u64) -> Option<IngestId> {
    let is_new = offset > 0 || ingest.growing.progress().written == 0;
    ingest.id.filter(|_| is_new)
}
