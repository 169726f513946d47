//! The attempts for each object that the node's own client requests, so that it goes upstream in time.
//!
//! containerd gives up after three consecutive bodies that end without a byte, and upstream may need those. So this
//! mirror deliberately ends one at most ([`Attempts::may_requeue`]). Peers may fail the client twice in all, unless
//! many bytes came in between: new identities cost nothing. What peers cost beyond that is charged to the pull of the
//! image ([`WaitingBudget`]).

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use oci::{Key, Origin, Registry};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::registry_speeds::{RegistrySpeeds, Stream};
use crate::waiting_budget::{WaitingBudget, WaitingBudgets};

/// The number of failures of peers (broken or stalled bodies, wrong bytes) after which the client goes upstream.
const MAX_FAILURES: u8 = 2;
/// The bytes from peers after which an earlier failure no longer counts.
const CLEARED_BY: u64 = 1024 * 1024;
/// The time without a request or a byte after which attempts no longer count.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// The most objects to remember.
const MAX_OBJECTS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// The attempts at one object.
#[derive(Debug, Default)]
pub struct Attempts {
    state: Mutex<State>,
    budget: Arc<WaitingBudget>,
    /// The registry to which failures and speed of the object are attributed.
    registry: Option<Registry>,
    speeds: Arc<RegistrySpeeds>,
}

#[derive(Debug)]
struct State {
    is_requeued: bool,
    /// When the client was sent upstream, if it has not asked again since.
    sent_upstream: Option<Instant>,
    failures: u8,
    /// The bytes from peers were not committed: the client goes upstream before any other peer.
    is_not_committed: bool,
    /// Bytes from peers since the last failure.
    received: u64,
    used: Instant,
}

impl Default for State {
    fn default() -> Self {
        Self {
            is_requeued: false,
            sent_upstream: None,
            failures: 0,
            is_not_committed: false,
            received: 0,
            used: Instant::now(),
        }
    }
}

impl Attempts {
    /// Whether a body may end without a byte, so that containerd requeues its request: not twice without bytes in
    /// between.
    pub fn may_requeue(&self) -> bool {
        !self.state.lock().is_requeued
    }

    /// Records that a body ends without a byte.
    pub fn requeued(&self) {
        self.state.lock().is_requeued = true;
    }

    /// Records bytes from a peer.
    pub fn received(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.is_requeued = false;
        state.received += bytes;
        state.used = Instant::now();
        if state.received >= CLEARED_BY {
            state.failures = 0;
        }
    }

    /// Records that a peer's body broke, stalled, or had wrong bytes.
    pub fn failed(&self) {
        let mut state = self.state.lock();
        state.failures = state.failures.saturating_add(1);
        state.received = 0;
    }

    /// Records that the whole object was delivered and not committed. Other peers may be wrong as well, and each would
    /// cost the client a whole pull.
    pub fn not_committed(&self) {
        self.state.lock().is_not_committed = true;
    }

    /// Whether peers have failed too often, or cost the pull too much.
    pub fn are_spent(&self) -> bool {
        let state = self.state.lock();
        state.is_not_committed || state.failures >= MAX_FAILURES || self.budget.is_spent()
    }

    /// The time that the pull of the image may lose by waiting.
    pub fn budget(&self) -> &Arc<WaitingBudget> {
        &self.budget
    }

    /// The rate at which a peer must send, in bytes per second. See [`RegistrySpeeds::required`].
    pub fn required(&self, grows: bool) -> u64 {
        self.speeds.required(self.registry.as_ref(), grows)
    }

    /// Begins to receive from a peer.
    pub fn begin_stream(&self) -> Stream {
        self.speeds.stream()
    }

    /// Records that the client is sent upstream.
    pub fn sent_upstream(&self) {
        self.state.lock().sent_upstream = Some(Instant::now());
    }

    /// Records that the client requests the object again, or the rest of it (`goes_on`). If it was sent upstream for it,
    /// upstream has failed, unless the registry has sent other objects since and a new pull begins. Returns whether
    /// peers whose bytes were not committed may be asked then: the others come first.
    pub fn asked_again(&self, goes_on: bool) -> bool {
        let Some(since) = self.state.lock().sent_upstream.take() else {
            return false;
        };
        let registry = self.registry.as_ref().filter(|_| !goes_on);
        let works_again = registry.is_some_and(|r| self.speeds.has_sent_since(r, since));
        !works_again && self.upstream_failed()
    }

    /// Records that upstream has failed the client: peers are the only sources, and may fail again. Returns whether all
    /// of them could be asked already.
    pub fn upstream_failed(&self) -> bool {
        let mut state = self.state.lock();
        let were_some_spared = std::mem::take(&mut state.is_not_committed);
        (state.failures, state.received) = (0, 0);
        self.budget.renew();
        if let Some(registry) = &self.registry {
            self.speeds.failed(registry);
        }
        !were_some_spared
    }
}

/// The attempts for all objects, with separate ones for their heads: after a head the client requests the object,
/// whether or not it was sent upstream for the head.
#[derive(Debug)]
pub struct AttemptsByKey {
    all: Mutex<LruCache<(Key, bool), Arc<Attempts>>>,
    budgets: WaitingBudgets,
    speeds: Arc<RegistrySpeeds>,
}

impl AttemptsByKey {
    pub fn new(speeds: Arc<RegistrySpeeds>) -> Self {
        Self {
            all: Mutex::new(LruCache::new(MAX_OBJECTS)),
            budgets: WaitingBudgets::default(),
            speeds,
        }
    }

    #[cfg(test)]
    pub fn speeds(&self) -> &RegistrySpeeds {
        &self.speeds
    }

    /// The attempts for an object, or for its head alone, that a client requests now, as part of the pull of an image
    /// from `origin`.
    pub fn of(&self, key: &Key, head_only: bool, origin: Option<&Origin>) -> Arc<Attempts> {
        let budget = self.budgets.of(origin);
        let mut all = self.all.lock();
        // A repeated request for a head need not mean that the registry has failed.
        let registry = origin.filter(|_| !head_only);
        let registry = registry.map(|origin| &origin.registry);
        let new = || {
            Arc::new(Attempts {
                state: Mutex::default(),
                budget: budget.clone(),
                registry: registry.cloned(),
                speeds: self.speeds.clone(),
            })
        };
        let attempts = all.get_or_insert_mut((key.clone(), head_only), new);
        let is_old = attempts.state.lock().used.elapsed() >= FORGOTTEN_AFTER;
        let is_of_another = origin.is_some() && !Arc::ptr_eq(&attempts.budget, &budget);
        if is_old || is_of_another {
            *attempts = new();
        }
        attempts.state.lock().used = Instant::now();
        attempts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_may_fail_twice_unless_much_comes_between() {
        let attempts = Attempts::default();
        attempts.failed();
        attempts.received(CLEARED_BY - 1);
        attempts.failed();
        assert!(attempts.are_spent(), "whoever they are");
        let attempts = Attempts::default();
        attempts.failed();
        attempts.received(CLEARED_BY);
        attempts.failed();
        assert!(!attempts.are_spent());
    }

    #[test]
    fn a_request_is_requeued_once_between_bytes() {
        let attempts = Attempts::default();
        assert!(attempts.may_requeue());
        attempts.requeued();
        assert!(!attempts.may_requeue());
        attempts.received(1);
        assert!(attempts.may_requeue());
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_pull_begins_anew() {
        let all = AttemptsByKey::new(Arc::default());
        let key = Key::Digest(oci::Digest::sha256(b"layer"));
        for _ in 0..MAX_FAILURES {
            all.of(&key, false, None).failed();
        }
        assert!(all.of(&key, false, None).are_spent());
        assert!(!all.of(&key, true, None).are_spent());
        tokio::time::advance(FORGOTTEN_AFTER).await;
        assert!(!all.of(&key, false, None).are_spent());
    }

    /// Without a reachable upstream, peers are the only sources.
    #[test]
    fn once_upstream_has_failed_peers_may_fail_anew() {
        let attempts = Attempts::default();
        attempts.budget.charge(Duration::from_secs(9));
        for _ in 0..MAX_FAILURES {
            attempts.failed();
        }
        assert!(!attempts.asked_again(false), "it was not sent upstream");
        assert!(attempts.are_spent());
        attempts.sent_upstream();
        assert!(attempts.asked_again(false));
        assert!(!attempts.are_spent());
    }

    #[tokio::test(start_paused = true)]
    async fn once_the_registry_sends_again_earlier_failures_of_it_do_not_count() {
        let speeds = Arc::<RegistrySpeeds>::default();
        let all = AttemptsByKey::new(speeds.clone());
        let origin: Origin = Origin {
            registry: "quay.io".parse().expect("a registry"),
            repository: "a/b".parse().expect("a repository"),
        };
        let of = |name: &[u8]| {
            let key = Key::Digest(oci::Digest::sha256(name));
            all.of(&key, false, Some(&origin))
        };
        let layers = [of(b"one"), of(b"two")];
        for layer in &layers {
            layer.sent_upstream();
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        speeds.received(&origin.registry, 1, Duration::from_secs(1));
        layers[0].budget.charge(Duration::from_secs(9));
        tokio::time::advance(Duration::from_secs(9)).await;
        layers[0].budget.charge(Duration::from_secs(9));
        layers[0].asked_again(false);
        assert!(layers[0].are_spent(), "a new pull");
        layers[1].asked_again(true);
        assert!(!layers[1].are_spent(), "the same pull: upstream broke off");
    }
}
