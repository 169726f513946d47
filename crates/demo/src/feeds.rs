//! The sources of each node: the decisions of the other nodes, recorded as they arrive.
//!
//! Every change of source is a request with the number of bytes that are there already, so the bytes from each source
//! are known exactly, without any change in the behaviour of a node.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flights::Key;
use mirror::{
    Decided, Decision, FlightEvents, Flights, LinkTest, PeerId, PullProgress, Received,
    SourceRequest,
};
use oci::Digest;
use parking_lot::Mutex;

/// The flights of a node, with a record of their answers.
pub(crate) struct Recorded {
    flights: Arc<dyn Flights>,
    legs: Mutex<HashMap<Key, Vec<Leg>>>,
}

/// A leg of an object's transfer to the node: from this byte to the next leg or the end.
struct Leg {
    offset: u64,
    /// `None`: upstream.
    source: Option<PeerId>,
}

impl Recorded {
    pub(crate) fn new(flights: Arc<dyn Flights>) -> Self {
        Self {
            flights,
            legs: Mutex::default(),
        }
    }

    /// The bytes of these complete objects (with their sizes) that came from each peer.
    pub(crate) fn fed_by(&self, objects: &[(Digest, u64)]) -> BTreeMap<PeerId, u64> {
        let legs = self.legs.lock();
        let mut fed = BTreeMap::new();
        for (digest, size) in objects {
            let legs = legs
                .get(&Key::of(digest.as_str()))
                .map_or(&[][..], Vec::as_slice);
            let ends = legs.iter().skip(1).map(|leg| leg.offset).chain([*size]);
            for (leg, end) in legs.iter().zip(ends) {
                let bytes = end.saturating_sub(leg.offset);
                if let Some(source) = leg.source.as_ref().filter(|_| bytes > 0) {
                    *fed.entry(source.clone()).or_default() += bytes;
                }
            }
        }
        fed
    }
}

#[async_trait]
impl Flights for Recorded {
    async fn request_source(&self, request: SourceRequest) -> Decided {
        let (key, offset) = (request.key(), request.offset);
        let failed: Vec<_> = request.failed_sources().collect();
        let decided = self.flights.request_source(request).await;
        let source = match &decided.decision {
            Decision::Follow { source, .. } => Some(source.peer.clone()),
            Decision::Lead | Decision::Alone | Decision::Later => None,
        };
        // The mirror pulls from upstream rather than from a failed source.
        let has_failed = |peer: &PeerId| peer.node().is_some_and(|node| failed.contains(&node));
        let source = source.filter(|source| !has_failed(source));
        let mut legs = self.legs.lock();
        legs.entry(key).or_default().push(Leg { offset, source });
        decided
    }

    fn charge(&self, repository: u64, lost: Duration) {
        self.flights.charge(repository, lost);
    }

    fn report(&self, digest: &Digest, progress: PullProgress) {
        self.flights.report(digest, progress);
    }

    fn observe(&self, rates: Received) {
        self.flights.observe(rates);
    }

    fn link_tested(&self, test: LinkTest) {
        self.flights.link_tested(test);
    }

    fn events(&self) -> FlightEvents {
        self.flights.events()
    }
}

#[cfg(test)]
mod tests {
    use mirror::{Candidate, ChainPosition};

    use super::*;

    /// Answers with these names of peers one after the other, the last first; an empty one means upstream.
    struct Scripted(Mutex<Vec<&'static str>>);

    #[async_trait]
    impl Flights for Scripted {
        async fn request_source(&self, _: SourceRequest) -> Decided {
            let decision = match self.0.lock().pop().expect("no more is asked") {
                "" => Decision::Lead,
                peer => Decision::Follow {
                    source: Candidate {
                        peer: PeerId::new(peer),
                        addresses: Arc::new([]),
                    },
                    position: ChainPosition::default(),
                    leader: None,
                },
            };
            decision.into()
        }

        fn report(&self, _: &Digest, _: PullProgress) {}
    }

    #[tokio::test]
    async fn each_source_has_its_bytes() {
        let answers = vec!["a", "b", "", "a", "c"];
        let recorded = Recorded::new(Arc::new(Scripted(Mutex::new(answers))));
        let (layer, config) = (Digest::sha256(b"layer"), Digest::sha256(b"config"));
        // Node c refuses, a breaks after 40 bytes, upstream after 30 more, and b has the rest; then another object.
        let questions = [
            (&layer, 0),
            (&layer, 0),
            (&layer, 40),
            (&layer, 70),
            (&config, 0),
        ];
        for (digest, offset) in questions {
            let request = SourceRequest {
                offset,
                ..SourceRequest::new(digest.as_str(), None)
            };
            recorded.request_source(request).await;
        }
        let fed = recorded.fed_by(&[(layer, 100), (config, 7), (Digest::sha256(b"x"), 9)]);
        let expected = [("a", 47), ("b", 30)].map(|(peer, bytes)| (PeerId::new(peer), bytes));
        assert_eq!(fed, BTreeMap::from(expected));
    }
}
