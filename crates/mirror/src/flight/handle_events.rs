//! Reports to the flights what this node receives, and handles their events.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::{MissedTickBehavior, interval};

use super::shared::Shared;
use crate::{Candidate, Condition, FlightEvent, FlightEvents};

/// The interval between observations while anything is received.
const OBSERVE_EVERY: Duration = Duration::from_millis(250);

/// Observes what arrives, and handles events, until the mirror or flights end.
pub async fn run(shared: Arc<Shared>, mut events: FlightEvents) {
    // Without this task no event would ever be handled again.
    while AssertUnwindSafe(handle_until_end(&shared, &mut events))
        .catch_unwind()
        .await
        .is_err()
    {
        tracing::error!("handling an event of flights panicked; this is a bug, please report it");
    }
}

async fn handle_until_end(shared: &Arc<Shared>, events: &mut FlightEvents) {
    let mut ticks = interval(OBSERVE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => shared.handle(event),
                None => return,
            },
            () = shared.pulls.wait_for_any(), if shared.pulls.is_empty() => {}
            _ = ticks.tick(), if !shared.pulls.is_empty() => {
                if shared.pulls.any(|pull| pull.is_moving()) {
                    shared.flights.observe(shared.speed.received_by_now());
                }
            }
        }
    }
}

impl Shared {
    fn handle(self: &Arc<Self>, event: FlightEvent) {
        match event {
            FlightEvent::TestLink(peers) => self.spawn(self.clone().test_link(peers)),
            FlightEvent::Link(state) => {
                tracing::debug!(?state, "the speed of this node has changed");
                self.speed.link.send_replace(state);
                let bandwidth = i64::try_from(state.bandwidth.unwrap_or_default());
                self.metrics.flights_link.set(bandwidth.unwrap_or(i64::MAX));
                let is_slow = state.condition == Condition::Slow;
                self.metrics.flights_slow.set(is_slow.into());
                // Each test reports this again: another leader may have begun since.
                if is_slow {
                    self.evict_all();
                }
            }
            FlightEvent::LeaderIsSlow(key) => {
                let received = self.speed.received_by_now();
                tracing::debug!(
                    ?received,
                    %key,
                    "a registry gives this node little: another node tries it"
                );
                self.metrics.flights_evictions.inc();
                if let Some(pull) = self.pulls.of_key(&key) {
                    pull.evict();
                }
            }
        }
    }

    /// Tells all followers to use another source.
    fn evict_all(&self) {
        self.metrics.flights_evictions.inc();
        self.pulls.for_each(|pull| pull.evict());
    }

    async fn test_link(self: Arc<Self>, peers: Vec<Candidate>) {
        let test = self
            .fetcher
            .test_link(&peers, || self.speed.received_lately())
            .await;
        tracing::debug!(?test, "tested the link of this node");
        self.flights.link_tested(test);
    }
}
