//! Lookups in progress, each shared by all callers with the same key.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use mirror::Candidate;
use tokio::sync::mpsc;

use crate::key::RoutingKey;

/// The interval between checks for abandoned searches.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_millis(50);
/// The number of candidates at which a lookup ends, even if more peers have the key.
const ENOUGH: usize = 32;

/// The most providers of a lookup whose addresses are being looked up. Usually there are few: addresses come with the
/// record.
const MAX_UNRESOLVED: usize = 3;

#[derive(Debug, Default)]
pub(crate) struct Searches(HashMap<RoutingKey, Running>);

#[derive(Debug)]
struct Running {
    started: Instant,
    /// The candidates found so far, for later callers.
    found: Vec<Candidate>,
    seen: HashSet<PeerId>,
    waiting: Vec<mpsc::Sender<Candidate>>,
    /// The number of providers whose addresses are still being looked up.
    unresolved: usize,
    /// The number of running queries for it.
    ways: usize,
}

impl Searches {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a caller. Returns whether it is the first, so that a lookup must begin.
    pub(crate) fn join(
        &mut self,
        key: RoutingKey,
        asker: mpsc::Sender<Candidate>,
        now: Instant,
    ) -> bool {
        let mut first = false;
        let running = self.0.entry(key).or_insert_with(|| {
            first = true;
            Running {
                started: now,
                found: Vec::new(),
                seen: HashSet::new(),
                waiting: Vec::new(),
                unresolved: 0,
                ways: 0,
            }
        });
        for candidate in &running.found {
            // A caller that does not take candidates has enough.
            let _ = asker.try_send(candidate.clone());
        }
        running.waiting.push(asker);
        first
    }

    /// Records that a query for the key begins. The caller later calls [`Self::finished`].
    pub(crate) fn begin(&mut self, key: &RoutingKey) {
        if let Some(running) = self.0.get_mut(key) {
            running.ways += 1;
        }
    }

    /// Whether this lookup has not met the peer before.
    pub(crate) fn is_new(&mut self, key: &RoutingKey, peer: PeerId) -> bool {
        self.0
            .get_mut(key)
            .is_some_and(|running| running.seen.insert(peer))
    }

    /// Offers a candidate to all callers. Returns the time it took, if it is the first.
    pub(crate) fn offer(
        &mut self,
        key: &RoutingKey,
        candidate: Candidate,
        now: Instant,
    ) -> Option<Duration> {
        let running = self.0.get_mut(key)?;
        for asker in &running.waiting {
            let _ = asker.try_send(candidate.clone());
        }
        running.found.push(candidate);
        (running.found.len() == 1).then(|| now - running.started)
    }

    /// Whether the lookup has found all that any caller needs.
    pub(crate) fn has_enough(&self, key: &RoutingKey) -> bool {
        self.0.get(key).is_some_and(|r| r.found.len() >= ENOUGH)
    }

    /// Whether all callers have gone. Often only the first candidate is used, and then 17 more nodes need not be asked.
    pub(crate) fn is_abandoned(&self, key: &RoutingKey) -> bool {
        let running = self.0.get(key);
        running.is_some_and(|r| r.waiting.iter().all(mpsc::Sender::is_closed))
    }

    /// Whether the addresses of one more provider may be looked up. The caller later calls [`Self::resolved`].
    pub(crate) fn resolving(&mut self, key: &RoutingKey) -> bool {
        let running = self.0.get_mut(key);
        running.is_some_and(|running| {
            let may = running.unresolved < MAX_UNRESOLVED;
            running.unresolved += usize::from(may);
            may
        })
    }

    /// Records that the addresses of a provider were looked up. Returns the time of the search, if it ends now without
    /// a result.
    pub(crate) fn resolved(&mut self, key: &RoutingKey, now: Instant) -> Option<Duration> {
        let running = self.0.get_mut(key)?;
        running.unresolved = running.unresolved.saturating_sub(1);
        self.end_if_over(key, now)
    }

    /// Records that a query has ended. Returns the time of the search, if it ends now without a result.
    pub(crate) fn finished(&mut self, key: &RoutingKey, now: Instant) -> Option<Duration> {
        let running = self.0.get_mut(key)?;
        running.ways = running.ways.saturating_sub(1);
        self.end_if_over(key, now)
    }

    /// Ends the search by closing the channels of all callers.
    fn end_if_over(&mut self, key: &RoutingKey, now: Instant) -> Option<Duration> {
        let running = self.0.get(key)?;
        if running.ways > 0 || running.unresolved > 0 {
            return None;
        }
        let running = self.0.remove(key)?;
        running.found.is_empty().then(|| now - running.started)
    }

    /// Removes the searches that no caller waits for. Returns their keys, and the time of each without a result.
    pub(crate) fn cancel_abandoned(&mut self, now: Instant) -> Vec<(RoutingKey, Option<Duration>)> {
        let mut abandoned = Vec::new();
        self.0.retain(|key, running| {
            running.waiting.retain(|asker| !asker.is_closed());
            let keep = !running.waiting.is_empty();
            if !keep {
                let took = running.found.is_empty().then(|| now - running.started);
                abandoned.push((*key, took));
            }
            keep
        });
        abandoned
    }
}

#[cfg(test)]
mod tests {
    use mirror::Search;

    use super::*;

    fn candidate(name: &str) -> Candidate {
        Candidate {
            peer: mirror::PeerId::new(name),
            addresses: [([127, 0, 0, 1], 5000).into()].into(),
        }
    }

    #[tokio::test]
    async fn who_asks_later_gets_what_was_found_and_all_end_together() {
        let (mut searches, key, now) =
            (Searches::default(), RoutingKey::numbered(0), Instant::now());
        let ((first, mut one), (second, mut two)) = (Search::channel(), Search::channel());
        assert!(searches.join(key, first, now));
        searches.begin(&key);
        searches.begin(&key);
        assert_eq!(
            searches.offer(&key, candidate("a"), now),
            Some(Duration::ZERO)
        );
        assert!(!searches.join(key, second, now));
        assert_eq!(searches.offer(&key, candidate("b"), now), None);
        assert!(searches.resolving(&key));
        assert_eq!(searches.finished(&key, now), None);
        assert!(!searches.is_empty(), "there is another way");
        assert_eq!(searches.finished(&key, now), None);
        assert!(!searches.is_empty(), "an address is being looked for");
        assert_eq!(searches.resolved(&key, now), None);
        for search in [&mut one, &mut two] {
            assert_eq!(search.next().await, Some(candidate("a")));
            assert_eq!(search.next().await, Some(candidate("b")));
            assert_eq!(search.next().await, None);
        }
    }

    #[test]
    fn a_search_that_all_have_dropped_is_abandoned() {
        let (mut searches, key, now) =
            (Searches::default(), RoutingKey::numbered(0), Instant::now());
        let ((first, one), (second, two)) = (Search::channel(), Search::channel());
        searches.join(key, first, now);
        searches.join(key, second, now);
        drop(one);
        assert!(searches.cancel_abandoned(now).is_empty());
        drop(two);
        assert_eq!(
            searches.cancel_abandoned(now),
            [(key, Some(Duration::ZERO))]
        );
        assert!(searches.is_empty());
    }
}
