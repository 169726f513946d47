//! Measures what this node receives, in all and from each registry.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use oci::Registry;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fetch::bandwidth::TestPermits;
use crate::rate::RateMeter;
use crate::{LinkState, ReceiveRates, registry_hash};

/// A rate covers a second, and counts once bytes have been on the way for as long.
const MEASURED_AFTER: Duration = Duration::from_secs(1);
/// The most registries to measure at once.
const MAX_REGISTRIES: usize = 64;

/// The speed of this node.
#[derive(Debug, Default)]
pub struct Speed {
    total: Mutex<RateMeter>,
    led: Mutex<HashMap<Registry, Led>>,
    /// What flights have told last.
    pub link: watch::Sender<LinkState>,
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
    pub fn rates(&self) -> ReceiveRates {
        let now = Instant::now();
        let mut led = self.led.lock();
        let led = led.iter_mut();
        let led = led.filter(|(_, led)| now - led.since >= MEASURED_AFTER);
        ReceiveRates {
            total: self.received_lately(),
            led: led
                .map(|(registry, led)| {
                    let rate = led.meter.recent_rate(now);
                    (registry_hash(registry.as_str()), rate)
                })
                .collect(),
        }
    }

    /// What arrives now in all, in bytes per second.
    pub fn received_lately(&self) -> u64 {
        self.total.lock().recent_rate(Instant::now())
    }
}

/// An object that this node leads, from the first byte to the last. Dropping it ends the lead.
pub struct Lead {
    speed: Arc<Speed>,
    registry: Registry,
}

impl Lead {
    pub fn begin(speed: Arc<Speed>, registry: Registry) -> Self {
        speed.begin_lead(&registry);
        Self { speed, registry }
    }

    /// Records bytes of the object.
    pub fn received(&self, bytes: u64) {
        self.speed.received(Some(&self.registry), bytes);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.speed.end_lead(&self.registry);
    }
}
