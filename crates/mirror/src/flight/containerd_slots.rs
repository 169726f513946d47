//! When to requeue a request, given that containerd's downloads share slots.
//!
//! From containerd 2.1, three downloads of a node run at once, and a request sent upstream goes to the tail of its
//! queue. Requests that wait here for leaders of other nodes hold slots. If all three did, a lead of this node could
//! never begin, and two nodes could wait for each other for ever. So a request that has waited for a while ends without
//! a byte ([`Decision::Later`](crate::Decision)): it frees its slot, and containerd retries it after the queued ones.
//! containerd tolerates three such ends in a row.
//!
//! Also from 2.1, the layers of an image are requested in any order. If nodes pull different layers first, more layers
//! move at once than a node has slots, each with a smaller share of a link. So if an image has few layers, those above
//! the lowest missing ones are requeued once, before anything else. With many layers the last one matters little. With
//! another image on the way, the tail of the queue is behind that image, so nothing is requeued.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use oci::Digest;
use parking_lot::Mutex;

/// The time after which a request is requeued, for the first and the second time in a row.
///
/// The shorter the first, the sooner a node's downloads are those that other nodes pull just now. The second lasts
/// until most leads have begun.
const REQUEUE_AFTER: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(600)];
/// The most bodies in a row that may end without a byte for one object. containerd gives up after the fourth.
const MAX_EMPTY_ATTEMPTS: u8 = 3;
/// The downloads of a node at once: the default of containerd's `max_concurrent_downloads`.
const SLOTS: usize = 3;
/// An image with at most this many layers is reordered.
const FEW: usize = 2 * SLOTS;
/// containerd has queued all layers of an image within this time after the first.
pub const GATHER: Duration = Duration::from_millis(50);
/// The most objects to count empty attempts for.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

#[derive(Debug)]
pub struct ContainerdSlots {
    empty_attempts: Mutex<LruCache<Digest, u8>>,
}

impl Default for ContainerdSlots {
    fn default() -> Self {
        Self {
            empty_attempts: Mutex::new(LruCache::new(MAX_REMEMBERED)),
        }
    }
}

/// Records how the body of an object ended.
#[derive(Debug)]
pub struct BodyEndHook {
    slots: Arc<ContainerdSlots>,
    digest: Digest,
}

impl ContainerdSlots {
    /// The time after which a request for this object is requeued. `None`: never.
    pub fn requeue_after(&self, digest: &Digest) -> Option<Duration> {
        REQUEUE_AFTER
            .get(usize::from(self.empty_attempts(digest)))
            .copied()
    }

    /// Whether a request for a layer should let the layers below it in its image go first.
    pub fn waits_for_lower_layers(
        &self,
        digest: &Digest,
        layers: &[Digest],
        is_here: impl Fn(&Digest) -> bool,
    ) -> bool {
        if layers.len() > FEW || self.empty_attempts(digest) > 0 {
            return false;
        }
        let below = layers.iter().take_while(|layer| *layer != digest);
        below.filter(|layer| !is_here(layer)).count() >= SLOTS
    }

    /// Whether one more body for this object may end without a byte.
    pub fn may_end_empty(&self, digest: &Digest) -> bool {
        self.empty_attempts(digest) < MAX_EMPTY_ATTEMPTS
    }

    fn empty_attempts(&self, digest: &Digest) -> u8 {
        self.empty_attempts
            .lock()
            .peek(digest)
            .copied()
            .unwrap_or_default()
    }

    pub fn body_end_hook(self: &Arc<Self>, digest: &Digest) -> BodyEndHook {
        BodyEndHook {
            slots: self.clone(),
            digest: digest.clone(),
        }
    }

    /// Forgets an object whose pull is over.
    pub fn forget(&self, digest: &Digest) {
        self.empty_attempts.lock().pop(digest);
    }
}

impl BodyEndHook {
    /// Records that a body ended after `bytes`. `is_broken`: there should have been more.
    pub fn ended(&self, bytes: u64, is_broken: bool) {
        if bytes > 0 {
            self.slots.forget(&self.digest);
        } else if is_broken {
            let mut empty_attempts = self.slots.empty_attempts.lock();
            *empty_attempts.get_or_insert_mut(self.digest.clone(), || 0) += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_layers_that_are_missing_come_first() {
        let slots = Arc::new(ContainerdSlots::default());
        let layers = |count: u8| -> Vec<_> { (0..count).map(|n| Digest::sha256(&[n])).collect() };
        let early = |count: u8, here: &[usize]| {
            let layers = layers(count);
            let is_here = |layer: &Digest| here.iter().any(|n| layers[*n] == *layer);
            let early = |n: &usize| slots.waits_for_lower_layers(&layers[*n], &layers, is_here);
            (0..layers.len()).filter(early).collect::<Vec<_>>()
        };
        let none: [usize; 0] = [];
        assert_eq!(early(3, &[]), none);
        assert_eq!(early(5, &[]), [3, 4]);
        assert_eq!(early(5, &[0, 2]), none);
        assert_eq!(early(6, &[1]), [4, 5]);
        assert_eq!(early(7, &[]), none, "little hangs on the last of many");
        slots.body_end_hook(&layers(5)[3]).ended(0, true);
        assert_eq!(early(5, &[]), [4], "once");
    }

    #[test]
    fn three_ends_in_a_row_without_a_byte_are_all() {
        let slots = Arc::new(ContainerdSlots::default());
        let digest = Digest::sha256(b"layer");
        let ending = slots.body_end_hook(&digest);
        ending.ended(0, false);
        ending.ended(0, true);
        let after = |slots: &ContainerdSlots| slots.requeue_after(&digest);
        assert_eq!(after(&slots), Some(REQUEUE_AFTER[1]));
        ending.ended(0, true);
        assert!(after(&slots).is_none() && slots.may_end_empty(&digest));
        ending.ended(0, true);
        assert!(!slots.may_end_empty(&digest));
        ending.ended(1, true);
        assert_eq!(after(&slots), Some(REQUEUE_AFTER[0]), "a byte came between");
    }
}
