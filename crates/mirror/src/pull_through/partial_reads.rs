//! Objects that clients read in parts (eStargz, SOCI, zstd:chunked): the source of the last part, and whether fetching
//! the whole object is worth it by now.

use std::num::NonZeroUsize;

use lru::LruCache;
use oci::Digest;
use parking_lot::Mutex;

use crate::found::Source;

/// The most objects to remember; the least recently read is dropped first.
const MAX_OBJECTS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

#[derive(Debug)]
pub struct PartialReads(Mutex<LruCache<Digest, Past>>);

#[derive(Clone, Copy, Debug)]
struct Past {
    /// The bytes of all parts together.
    bytes: u64,
    source: Source,
}

impl Default for PartialReads {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_OBJECTS)))
    }
}

impl PartialReads {
    /// The source of an object's last part.
    pub fn source(&self, digest: &Digest) -> Option<Source> {
        self.0.lock().get(digest).map(|past| past.source)
    }

    /// Records that a part of `bytes` begins to arrive. Returns whether the whole object, of `size` bytes, should be
    /// fetched now: its parts have cost half as much. Returns true only once.
    pub fn began(&self, digest: &Digest, source: Source, bytes: u64, size: u64) -> bool {
        let mut objects = self.0.lock();
        let past = objects.get_or_insert_mut(digest.clone(), || Past { bytes: 0, source });
        let before = past.bytes;
        past.bytes = before.saturating_add(bytes);
        past.source = source;
        let pays = size / 2;
        before <= pays && past.bytes > pays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_pays_once_half_of_it_was_read() {
        let (parts, digest) = (PartialReads::default(), Digest::sha256(b"a"));
        assert_eq!(parts.source(&digest), None);
        assert!(!parts.began(&digest, Source::Upstream, 50, 100));
        assert_eq!(parts.source(&digest), Some(Source::Upstream));
        assert!(parts.began(&digest, Source::Peer, 1, 100));
        assert_eq!(parts.source(&digest), Some(Source::Peer));
        assert!(!parts.began(&digest, Source::Peer, u64::MAX, 100));
    }
}
