//! Decides when each key of this node is published to the cluster. Pure: time is passed in.
//!
//! Publishing one key means finding the 20 nodes nearest to it and telling each; that costs milliseconds of CPU, here
//! and there. So keys are queued, a few are published at a time, and fewer while a lookup is running. Published keys
//! are renewed before their records expire, and earlier if the cluster has outgrown the nodes that were told.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::key::RoutingKey;

/// How long others keep a record. Spegel's.
pub(crate) const RECORD_TTL: Duration = Duration::from_secs(19 * 60);
/// A record is renewed after this at the latest. Spegel's.
const REPUBLISH_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// The part of [`REPUBLISH_INTERVAL`] by which renewals are randomly brought forward, so that keys announced in one
/// burst are not renewed in one.
const REPUBLISH_JITTER: f64 = 0.2;
/// The wait after an announcement without any answer.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// The most concurrent announcements.
const CONCURRENCY: usize = 4;
/// The same while lookups, which have priority, are running: enough to make progress.
const CONCURRENCY_BESIDE_LOOKUPS: usize = 1;
/// A key is published again when the cluster has grown by this factor: half of the 20 nodes that a reader asks still
/// know it.
const GROWTH: usize = 2;

#[derive(Debug, Default)]
pub(crate) struct Publisher {
    keys: HashMap<RoutingKey, State>,
    /// The keys to publish, in order. One that is no longer [`State::Waiting`] is skipped.
    waiting: VecDeque<RoutingKey>,
    /// The published keys, by the time of their renewal.
    due: BTreeSet<(Instant, RoutingKey)>,
    running: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    /// Published when the cluster had `size` nodes; to be renewed at `due`.
    Told {
        due: Instant,
        size: usize,
    },
}

impl Publisher {
    /// Adds a key. Returns whether it is new.
    pub(crate) fn announce(&mut self, key: RoutingKey) -> bool {
        let new = !self.keys.contains_key(&key);
        if new {
            self.wait(key);
        }
        new
    }

    /// Removes a key. Returns whether it was announced.
    pub(crate) fn withdraw(&mut self, key: &RoutingKey) -> bool {
        let state = self.keys.remove(key);
        if let Some(State::Told { due, .. }) = state {
            self.due.remove(&(due, *key));
        }
        state.is_some()
    }

    /// The next key to publish, if one is due. The caller then calls [`Self::finished`] once for it.
    pub(crate) fn next(&mut self, now: Instant, lookups: bool) -> Option<RoutingKey> {
        let limit = if lookups {
            CONCURRENCY_BESIDE_LOOKUPS
        } else {
            CONCURRENCY
        };
        if self.running >= limit {
            return None;
        }
        while let Some(key) = self.waiting.pop_front() {
            if self.keys.get(&key) == Some(&State::Waiting) {
                return Some(self.run(key));
            }
        }
        let (due, key) = *self.due.first()?;
        if due > now {
            return None;
        }
        self.due.pop_first();
        Some(self.run(key))
    }

    /// Records that a key was published in a cluster of `size` nodes, or that no node answered. `spread`: random, in
    /// [0, 1).
    pub(crate) fn finished(
        &mut self,
        key: &RoutingKey,
        answered: bool,
        size: usize,
        now: Instant,
        spread: f64,
    ) {
        self.running -= 1;
        // It was withdrawn meanwhile, or withdrawn and announced again.
        let Some(state @ State::Running) = self.keys.get_mut(key) else {
            return;
        };
        let after = if answered {
            REPUBLISH_INTERVAL.mul_f64(1.0 - REPUBLISH_JITTER * spread)
        } else {
            RETRY_INTERVAL
        };
        let due = now + after;
        *state = State::Told { due, size };
        self.due.insert((due, *key));
    }

    /// Records the estimated number of nodes in the cluster.
    pub(crate) fn resized(&mut self, size: usize) {
        let outgrown: Vec<_> = self
            .keys
            .iter()
            .filter_map(|(key, state)| match state {
                State::Told { due, size: then } if size >= GROWTH * (*then).max(1) => {
                    Some((*due, *key))
                }
                _ => None,
            })
            .collect();
        for entry in outgrown {
            self.due.remove(&entry);
            self.wait(entry.1);
        }
    }

    /// The number of published keys that are not due for renewal yet.
    pub(crate) fn told(&self) -> usize {
        self.due.len()
    }

    /// The number of keys to publish, running ones included.
    pub(crate) fn pending(&self) -> usize {
        self.keys.len() - self.due.len()
    }

    fn wait(&mut self, key: RoutingKey) {
        self.keys.insert(key, State::Waiting);
        self.waiting.push_back(key);
    }

    fn run(&mut self, key: RoutingKey) -> RoutingKey {
        self.keys.insert(key, State::Running);
        self.running += 1;
        key
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u32) -> RoutingKey {
        RoutingKey::numbered(number)
    }

    /// Publishes all keys that are due.
    fn tell(publisher: &mut Publisher, size: usize, now: Instant) -> Vec<RoutingKey> {
        let told: Vec<_> = std::iter::from_fn(|| {
            let key = publisher.next(now, false)?;
            publisher.finished(&key, true, size, now, 0.0);
            Some(key)
        })
        .collect();
        told
    }

    #[test]
    fn announcing_twice_is_announcing_once() {
        let (mut publisher, now) = (Publisher::default(), Instant::now());
        assert!(publisher.announce(key(1)) && !publisher.announce(key(1)));
        assert_eq!(tell(&mut publisher, 4, now), [key(1)]);
        assert!(!publisher.announce(key(1)));
        assert!(tell(&mut publisher, 4, now).is_empty());
    }

    #[test]
    fn renews_in_time() {
        let (mut publisher, now) = (Publisher::default(), Instant::now());
        publisher.announce(key(1));
        tell(&mut publisher, 4, now);
        let early = now + REPUBLISH_INTERVAL - Duration::from_secs(1);
        assert!(tell(&mut publisher, 4, early).is_empty());
        assert_eq!(tell(&mut publisher, 4, now + REPUBLISH_INTERVAL), [key(1)]);
        assert!(publisher.withdraw(&key(1)) && !publisher.withdraw(&key(1)));
        assert!(tell(&mut publisher, 4, now + 10 * REPUBLISH_INTERVAL).is_empty());
    }

    #[test]
    fn tells_again_what_nobody_heard_and_what_the_cluster_outgrew() {
        let (mut publisher, now) = (Publisher::default(), Instant::now());
        publisher.announce(key(1));
        let alone = publisher.next(now, false).expect("to tell");
        publisher.finished(&alone, false, 0, now, 0.0);
        assert_eq!(publisher.next(now, false), None);
        publisher.resized(1);
        assert_eq!(publisher.next(now, false), None, "not outgrown");
        publisher.resized(3);
        assert_eq!(tell(&mut publisher, 3, now), [key(1)]);
        publisher.resized(5);
        assert!(tell(&mut publisher, 5, now).is_empty());
        publisher.resized(6);
        assert_eq!(tell(&mut publisher, 6, now), [key(1)]);
    }

    #[test]
    fn look_ups_go_first() {
        let (mut publisher, now) = (Publisher::default(), Instant::now());
        for number in 0..10 {
            publisher.announce(key(number));
        }
        assert!(publisher.next(now, true).is_some());
        assert_eq!(publisher.next(now, true), None);
        assert!(publisher.next(now, false).is_some());
    }

    proptest! {
        /// Whatever happens, no more than the limit run at once, and every announced key is published.
        #[test]
        fn loses_no_key(steps in proptest::collection::vec((0u32..6, 0u8..4, any::<bool>()), 0..80)) {
            let (mut publisher, now) = (Publisher::default(), Instant::now());
            let mut running = VecDeque::new();
            let mut announced = BTreeSet::new();
            for (number, step, flag) in steps {
                match step {
                    0 => { publisher.announce(key(number)); announced.insert(key(number)); }
                    1 => { publisher.withdraw(&key(number)); announced.remove(&key(number)); }
                    2 => running.extend(publisher.next(now, flag)),
                    _ => if let Some(key) = running.pop_front() {
                        publisher.finished(&key, true, 1, now, 0.5);
                    }
                }
                prop_assert_eq!(publisher.running, running.len());
                prop_assert!(running.len() <= CONCURRENCY);
            }
            for key in running {
                publisher.finished(&key, true, 1, now, 0.5);
            }
            tell(&mut publisher, 1, now);
            prop_assert_eq!(publisher.told(), announced.len());
            prop_assert_eq!(publisher.pending(), 0);
        }
    }
}
