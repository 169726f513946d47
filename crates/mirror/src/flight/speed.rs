//! Measures what this node receives, tests its link, and lets followers go when this node is slow.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oci::Registry;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Shared;
use super::rate::RateMeter;
use crate::fetch::link_test::TestPermits;
use crate::flights::pulling::Role;
use crate::{Candidate, Condition, FlightEvent, ReceiveRates, registry_hash};

/// The interval between observations while anything is received.
const OBSERVE_EVERY: Duration = Duration::from_millis(250);
/// A rate covers a second, and counts once bytes have been on the way for as long.
const MEASURED_AFTER: Duration = Duration::from_secs(1);
/// The most registries to measure at once.
const MAX_REGISTRIES: usize = 64;

/// The speed of this node.
#[derive(Debug, Default)]
pub struct Speed {
    total: Mutex<RateMeter>,
    led: Mutex<HashMap<Registry, Led>>,
    condition: watch::Sender<Condition>,
    /// The bandwidth of the link as the last test has shown it, in bytes per second; 0: unknown.
    bandwidth: AtomicU64,
    pub test_permits: TestPermits,
}

/// What this node leads from one registry.
#[derive(Debug)]
struct Led {
    /// The objects on the way.
    count: usize,
    /// Since when there is one.
    since: Instant,
    meter: RateMeter,
}

impl Speed {
    /// Records bytes from a source, or from a registry if this node leads.
    pub fn received(&self, led_from: Option<&Registry>, bytes: u64) {
        let now = Instant::now();
        self.total.lock().received(now, bytes);
        if let Some(registry) = led_from
            && let Some(led) = self.led.lock().get_mut(registry)
        {
            led.meter.received(now, bytes);
        }
    }

    fn begin_lead(&self, registry: &Registry) {
        let mut led = self.led.lock();
        if led.len() < MAX_REGISTRIES || led.contains_key(registry) {
            let new = || Led {
                count: 0,
                since: Instant::now(),
                meter: RateMeter::default(),
            };
            led.entry(registry.clone()).or_insert_with(new).count += 1;
        }
    }

    fn end_lead(&self, registry: &Registry) {
        let mut led = self.led.lock();
        if let Some(entry) = led.get_mut(registry) {
            entry.count -= 1;
            if entry.count == 0 {
                led.remove(registry);
            }
        }
    }

    /// What arrives now.
    fn rates(&self) -> ReceiveRates {
        let now = Instant::now();
        let mut led = self.led.lock();
        let led = led.iter_mut();
        let led = led.filter(|(_, led)| now - led.since >= MEASURED_AFTER);
        ReceiveRates {
            total: self.total.lock().recent_rate(now),
            led: led
                .map(|(registry, led)| {
                    let rate = led.meter.recent_rate(now);
                    (registry_hash(registry.as_str()), rate)
                })
                .collect(),
        }
    }

    pub fn condition(&self) -> Condition {
        *self.condition.borrow()
    }

    pub fn bandwidth(&self) -> Option<u64> {
        Some(self.bandwidth.load(Ordering::Relaxed)).filter(|bandwidth| *bandwidth > 0)
    }
}

/// An object that this node leads, from the first byte to the last. Dropping it ends the lead.
pub struct Lead {
    shared: Arc<Shared>,
    registry: Registry,
}

impl Lead {
    pub fn begin(shared: Arc<Shared>, registry: Registry) -> Self {
        shared.speed.begin_lead(&registry);
        Self { shared, registry }
    }

    /// Records bytes of the object.
    pub fn received(&self, bytes: u64) {
        self.shared.speed.received(Some(&self.registry), bytes);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.shared.speed.end_lead(&self.registry);
    }
}

/// Observes what arrives, and handles events, until the mirror ends.
pub async fn run(shared: Arc<Shared>, mut events: mpsc::Receiver<FlightEvent>) {
    let mut ticks = interval(OBSERVE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => shared.handle(event),
                None => return,
            },
            () = shared.pulls.wait_for_any(), if shared.pulls.is_empty() => {}
            _ = ticks.tick(), if !shared.pulls.is_empty() => {
                if shared.pulls.any(|pull| pull.is_moving()) {
                    shared.flights.observe(shared.speed.rates());
                }
            }
        }
    }
}

impl Shared {
    fn handle(self: &Arc<Self>, event: FlightEvent) {
        match event {
            FlightEvent::TestLink(peers) => self.spawn(self.clone().test_link(peers)),
            FlightEvent::Condition(condition) => {
                tracing::debug!(?condition, "the speed of this node has changed");
                self.speed.condition.send_replace(condition);
                let is_slow = condition == Condition::Slow;
                self.metrics.flights_slow.set(is_slow.into());
                if is_slow {
                    self.evict(|_| true);
                }
            }
            FlightEvent::SlowRegistry(hash) => {
                let rates = self.speed.rates();
                tracing::debug!(
                    ?rates,
                    "a registry gives this node little: another node tries it"
                );
                let is_meant = |registry: &Registry| registry_hash(registry.as_str()) == hash;
                self.evict(|pull| {
                    let origin = pull.origin.as_ref();
                    pull.states().borrow().role == Role::Leads
                        && origin.is_some_and(|origin| is_meant(&origin.registry))
                });
            }
        }
    }

    /// Lets the followers of some pulls go on with another source.
    fn evict(&self, which: impl Fn(&super::Pull) -> bool) {
        self.metrics.flights_evictions.inc();
        self.pulls.for_each(|pull| {
            if which(pull) {
                pull.evict();
            }
        });
    }

    async fn test_link(self: Arc<Self>, peers: Vec<Candidate>) {
        let pulled = || self.speed.total.lock().recent_rate(Instant::now());
        let test = self.fetcher.test_link(&peers, pulled).await;
        tracing::debug!(?test, "tested the link of this node");
        if let Some(bandwidth) = test.bandwidth {
            self.speed.bandwidth.store(bandwidth, Ordering::Relaxed);
            let bandwidth = i64::try_from(bandwidth).unwrap_or(i64::MAX);
            self.metrics.flights_link.set(bandwidth);
        }
        self.flights.link_tested(test);
    }
}
