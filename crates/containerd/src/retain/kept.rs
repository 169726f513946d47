//! The kept blobs, and which of them must be released. Pure: time and the state of the disk are passed in.

use std::collections::HashMap;
use std::time::SystemTime;

use oci::Digest;

/// The most kept blobs. containerd visits each lease whenever it collects garbage.
pub(super) const MAX_KEPT: usize = 4096;

/// A kept blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    /// The size in bytes.
    pub size: u64,
    pub expires: SystemTime,
}

/// Why a blob is no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Its time is over.
    Expired,
    /// Too much is kept, and it is among the oldest.
    Size,
    /// The disk is full, and it is among the oldest.
    Pressure,
}

/// The kept blobs, by digest. The next to expire is the oldest.
#[derive(Debug, Default)]
pub(super) struct Kept {
    blobs: HashMap<Digest, Blob>,
    bytes: u64,
}

impl Kept {
    pub fn contains(&self, digest: &Digest) -> bool {
        self.blobs.contains_key(digest)
    }

    pub fn len(&self) -> usize {
        self.blobs.len()
    }

    /// The bytes of all blobs.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn insert(&mut self, digest: Digest, blob: Blob) {
        self.bytes = self.bytes.saturating_add(blob.size);
        if let Some(before) = self.blobs.insert(digest, blob) {
            self.bytes = self.bytes.saturating_sub(before.size);
        }
    }

    pub fn remove(&mut self, digest: &Digest) -> Option<Blob> {
        let blob = self.blobs.remove(digest)?;
        self.bytes = self.bytes.saturating_sub(blob.size);
        Some(blob)
    }

    /// When the next blob expires.
    pub fn first_expiry(&self) -> Option<SystemTime> {
        self.blobs.values().map(|blob| blob.expires).min()
    }

    /// The blobs that expire later than this.
    pub fn expiring_after(&self, latest: SystemTime) -> Vec<(Digest, Blob)> {
        let late = self.blobs.iter().filter(|(_, blob)| blob.expires > latest);
        late.map(|(digest, blob)| (digest.clone(), blob.clone()))
            .collect()
    }

    /// The blobs to release, oldest first, if `limit` bytes may be kept and the disk is `excess` bytes above its limit.
    pub fn due(&self, now: SystemTime, limit: u64, excess: u64) -> Vec<(Digest, Reason)> {
        let mut oldest: Vec<_> = self.blobs.iter().collect();
        oldest.sort_unstable_by_key(|(digest, blob)| (blob.expires, *digest));
        let (mut left, mut bytes) = (oldest.len(), self.bytes);
        let mut due = Vec::new();
        for (digest, blob) in oldest {
            let reason = if blob.expires <= now {
                Reason::Expired
            } else if bytes > limit || left > MAX_KEPT {
                Reason::Size
            } else if self.bytes - bytes < excess {
                Reason::Pressure
            } else {
                break;
            };
            due.push((digest.clone(), reason));
            left -= 1;
            bytes = bytes.saturating_sub(blob.size);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn blob(size: u64, expires: u64) -> Blob {
        Blob {
            size,
            expires: at(expires),
        }
    }

    fn digest(n: u64) -> Digest {
        Digest::sha256(&n.to_be_bytes())
    }

    /// Blobs with these sizes and expiry times; their digests are made from their positions.
    fn kept(blobs: &[(u64, u64)]) -> Kept {
        let mut kept = Kept::default();
        for (n, (size, expires)) in (0..).zip(blobs) {
            kept.insert(digest(n), blob(*size, *expires));
        }
        kept
    }

    #[test]
    fn the_oldest_go_first_and_no_more_than_needed() {
        let kept = kept(&[(10, 300), (20, 100), (30, 200)]);
        let due = |now, limit, excess| kept.due(at(now), limit, excess);
        assert_eq!(due(50, 60, 0), []);
        assert_eq!(due(100, 60, 0), [(digest(1), Reason::Expired)]);
        assert_eq!(due(50, 59, 0), [(digest(1), Reason::Size)]);
        assert_eq!(due(50, 60, 1), [(digest(1), Reason::Pressure)]);
        assert_eq!(
            due(100, 39, 51),
            [
                (digest(1), Reason::Expired),
                (digest(2), Reason::Size),
                (digest(0), Reason::Pressure)
            ],
            "what goes for one reason counts for the others"
        );
        assert_eq!(kept.first_expiry(), Some(at(100)));
    }

    #[test]
    fn more_than_so_many_are_not_kept() {
        let kept = kept(&vec![(0, 100); MAX_KEPT + 2]);
        assert_eq!(kept.due(at(0), 1, 0).len(), 2);
    }

    proptest! {
        #[test]
        fn what_stays_is_within_bounds_and_newer_than_what_goes(
            blobs in prop::collection::vec((0u64..100, 0u64..100), 0..40),
            now in 0u64..100, limit in 0u64..2000, excess in 0u64..500,
        ) {
            let mut kept = kept(&blobs);
            let before = kept.bytes();
            prop_assert_eq!(before, blobs.iter().map(|b| b.0).sum::<u64>());
            let mut gone = at(0);
            for (digest, _) in kept.due(at(now), limit, excess) {
                let blob = kept.remove(&digest).expect("kept");
                prop_assert!(blob.expires >= gone);
                gone = blob.expires;
            }
            prop_assert!(kept.bytes() <= limit);
            prop_assert!(kept.first_expiry().is_none_or(|first| first > at(now) && first >= gone));
            prop_assert!(before - kept.bytes() >= excess || kept.len() == 0);
            prop_assert_eq!(kept.due(at(now), limit, 0), []);
        }
    }
}
