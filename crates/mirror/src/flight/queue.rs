//! How this node's downloads are queued in containerd, and what that asks of us.
//!
//! From 2.1 on three downloads of a node run at once, and what is sent upstream goes to the tail of its queue. Requests
//! that wait here for other nodes' leads hold their places: if all three did, a lead granted to this node could never
//! begin, and two nodes that wait for each other's would wait for ever. So a request that has waited for a while is
//! ended without a byte ([`Turn::Later`](crate::Turn)): it gives its place up and comes again when those behind it have
//! had theirs. containerd bears three such ends in a row.
//!
//! From 2.1 on, too, the layers of an image come in any order. Where one node takes other layers first than another does,
//! more of them move at once than either takes, each with less of a link, and what a node had to leave for later comes
//! when the others are through. So of an image of few layers those above the lowest that are missing are sent to the
//! tail, once, before anything else. With many layers little hangs on the last; and not where other images come to the
//! node at the same time, for the tail is behind those.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use oci::Digest;
use parking_lot::Mutex;

/// After how long a request gives its place up, the first time and the second in a row. The shorter the first, the sooner
/// the downloads of the node are those that others pull just now; the second lasts until most leads have begun.
const WAYS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(600)];
/// Bodies in a row that may end without a byte for one object; containerd gives up after the fourth.
const MOST_BARREN: u8 = 3;
/// Downloads of a node that run at once: containerd's own setting, `max_concurrent_downloads`.
const SLOTS: usize = 3;
/// So many layers of an image are few.
const FEW: usize = 2 * SLOTS;
/// Within this time after the first of them, containerd has queued all layers of an image.
pub const GATHER: Duration = Duration::from_millis(50);
/// Objects for which such ends are remembered.
const MOST_REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

#[derive(Debug)]
pub struct Queue {
    barren: Mutex<LruCache<Digest, u8>>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            barren: Mutex::new(LruCache::new(MOST_REMEMBERED)),
        }
    }
}

/// Notes down how the body of an object ended.
#[derive(Debug)]
pub struct Ending {
    queue: Arc<Queue>,
    digest: Digest,
}

impl Queue {
    /// After how long a request for this object gives its place up; `None`: it does not.
    pub fn gives_way_after(&self, digest: &Digest) -> Option<Duration> {
        WAYS.get(usize::from(self.barren(digest))).copied()
    }

    /// Whether a request for a layer comes before those below it in its image have had their turn.
    pub fn comes_early(
        &self,
        digest: &Digest,
        layers: &[Digest],
        is_here: impl Fn(&Digest) -> bool,
    ) -> bool {
        if layers.len() > FEW || self.barren(digest) > 0 {
            return false;
        }
        let below = layers.iter().take_while(|layer| *layer != digest);
        below.filter(|layer| !is_here(layer)).count() >= SLOTS
    }

    /// Whether one more body for this object may end without a byte.
    pub fn may_be_barren(&self, digest: &Digest) -> bool {
        self.barren(digest) < MOST_BARREN
    }

    fn barren(&self, digest: &Digest) -> u8 {
        self.barren.lock().peek(digest).copied().unwrap_or_default()
    }

    pub fn ending(self: &Arc<Self>, digest: &Digest) -> Ending {
        Ending {
            queue: self.clone(),
            digest: digest.clone(),
        }
    }

    /// The pull of the object is over.
    pub fn forget(&self, digest: &Digest) {
        self.barren.lock().pop(digest);
    }
}

impl Ending {
    /// A body has ended after `bytes`; broken, if there should have been more.
    pub fn ended(&self, bytes: u64, is_broken: bool) {
        if bytes > 0 {
            self.queue.forget(&self.digest);
        } else if is_broken {
            let mut barren = self.queue.barren.lock();
            *barren.get_or_insert_mut(self.digest.clone(), || 0) += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_layers_that_are_missing_come_first() {
        let queue = Arc::new(Queue::default());
        let layers = |count: u8| -> Vec<_> { (0..count).map(|n| Digest::sha256(&[n])).collect() };
        let early = |count: u8, here: &[usize]| {
            let layers = layers(count);
            let is_here = |layer: &Digest| here.iter().any(|n| layers[*n] == *layer);
            let early = |n: &usize| queue.comes_early(&layers[*n], &layers, is_here);
            (0..layers.len()).filter(early).collect::<Vec<_>>()
        };
        let none: [usize; 0] = [];
        assert_eq!(early(3, &[]), none);
        assert_eq!(early(5, &[]), [3, 4]);
        assert_eq!(early(5, &[0, 2]), none);
        assert_eq!(early(6, &[1]), [4, 5]);
        assert_eq!(early(7, &[]), none, "little hangs on the last of many");
        queue.ending(&layers(5)[3]).ended(0, true);
        assert_eq!(early(5, &[]), [4], "once");
    }

    #[test]
    fn three_ends_in_a_row_without_a_byte_are_all() {
        let queue = Arc::new(Queue::default());
        let digest = Digest::sha256(b"layer");
        let ending = queue.ending(&digest);
        ending.ended(0, false);
        ending.ended(0, true);
        let after = |queue: &Queue| queue.gives_way_after(&digest);
        assert_eq!(after(&queue), Some(WAYS[1]));
        ending.ended(0, true);
        assert!(after(&queue).is_none() && queue.may_be_barren(&digest));
        ending.ended(0, true);
        assert!(!queue.may_be_barren(&digest));
        ending.ended(1, true);
        assert_eq!(after(&queue), Some(WAYS[0]), "a byte came between");
    }
}
