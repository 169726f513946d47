//! The peers that delivered an object which is not in the store yet. containerd verifies objects and commits no wrong
//! ones: if it requests an object again after all of it was delivered, a peer delivered wrong bytes.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use oci::Digest;
use parking_lot::Mutex;

use crate::{Candidate, IngestId};

/// The most objects to remember.
const MAX_OBJECTS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// The most peers of one object to remember.
const MAX_PEERS: usize = 8;

/// The deliveries of one object into one ingest.
#[derive(Debug)]
pub struct Delivery {
    ingest: IngestId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    peers: Vec<Candidate>,
    has_ended: bool,
    /// A task waits for the store to commit it.
    is_watched: bool,
}

impl Delivery {
    fn new(ingest: IngestId) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { ingest, state })
    }

    /// Records that a peer delivers bytes. `is_last`: the last byte of the object is among them.
    pub fn received(&self, from: &Candidate, is_last: bool) {
        let mut state = self.state.lock();
        state.has_ended |= is_last;
        let is_known = state
            .peers
            .last()
            .is_some_and(|peer| peer.peer == from.peer)
            || state.peers.iter().any(|peer| peer.peer == from.peer);
        if !is_known && state.peers.len() < MAX_PEERS {
            state.peers.push(from.clone());
        }
    }

    /// Whether the caller is the first to watch this delivery.
    pub fn watch(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().is_watched, true)
    }

    /// The peers that delivered all of the object.
    pub fn accused(&self) -> Vec<Candidate> {
        let state = self.state.lock();
        let all = state.peers.iter().filter(|_| state.has_ended);
        all.cloned().collect()
    }
}

/// The deliveries of this node's pulls.
#[derive(Debug)]
pub struct Deliveries(Mutex<LruCache<Digest, Arc<Delivery>>>);

impl Default for Deliveries {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_OBJECTS)))
    }
}

impl Deliveries {
    /// The delivery that a request of this node's containerd continues or begins, and the peers that delivered the
    /// object before, in vain.
    pub fn begin(
        &self,
        digest: &Digest,
        ingest: IngestId,
        offset: u64,
    ) -> (Arc<Delivery>, Vec<Candidate>) {
        let mut all = self.0.lock();
        let known = all.get(digest).cloned();
        let goes_on = |delivery: &&Arc<Delivery>| delivery.ingest == ingest && offset > 0;
        if let Some(delivery) = known.as_ref().filter(goes_on) {
            return (delivery.clone(), Vec::new());
        }
        let accused = known.map(|delivery| delivery.accused());
        let delivery = Delivery::new(ingest);
        all.put(digest.clone(), delivery.clone());
        (delivery, accused.unwrap_or_default())
    }

    /// Records that an object is in the store.
    pub fn committed(&self, digest: &Digest) {
        self.0.lock().pop(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PeerId;

    fn peer(name: &str) -> Candidate {
        Candidate {
            peer: PeerId::new(name),
            addresses: Arc::new([]),
        }
    }

    #[test]
    fn who_delivered_all_of_an_object_that_is_asked_for_anew_is_accused() {
        let (all, digest) = (Deliveries::default(), Digest::sha256(b"layer"));
        let (first, second) = (IngestId(1, 0), IngestId(2, 0));
        let (delivery, accused) = all.begin(&digest, first, 0);
        assert_eq!(accused, []);
        delivery.received(&peer("a"), false);
        let (delivery, accused) = all.begin(&digest, first, 5);
        assert_eq!(accused, [], "the same pull goes on");
        delivery.received(&peer("b"), true);
        delivery.received(&peer("a"), false);
        let (delivery, accused) = all.begin(&digest, second, 0);
        assert_eq!(accused, [peer("a"), peer("b")]);

        delivery.received(&peer("c"), false);
        let (delivery, accused) = all.begin(&digest, first, 0);
        assert_eq!(accused, [], "the end was never delivered");
        delivery.received(&peer("d"), true);
        all.committed(&digest);
        let (_, accused) = all.begin(&digest, second, 0);
        assert_eq!(accused, [], "it was committed, and removed since");
    }
}
