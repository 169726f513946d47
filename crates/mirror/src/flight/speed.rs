//! Measures the rates at which this node receives, in all and from each registry.

use std::collections::HashMap;
use std::sync::Arc;

use oci::Registry;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fetch::link_test::MAX_TESTS;
use crate::permits::PermitsPerSecond;
use crate::rate::RateMeter;
use crate::{LinkState, Received, registry_hash};

/// The most registries to measure at once.
const MAX_REGISTRIES: usize = 64;

/// The speed of this node.
#[derive(Debug, Default)]
pub struct Speed {
    total: Mutex<RateMeter>,
    led: Mutex<HashMap<Registry, Led>>,
    /// The last state reported by the flights.
    pub link: watch::Sender<LinkState>,
    pub test_permits: PermitsPerSecond<MAX_TESTS>,
}

/// The objects that this node leads from one registry.
#[derive(Debug, Default)]
struct Led {
    /// The number of running pulls.
    count: usize,
    /// The bytes received since there has been one.
    bytes: u64,
}

impl Speed {
    /// Records bytes from a source, or from a registry if this node leads.
    pub fn received(&self, led_from: Option<&Registry>, bytes: u64) {
        self.total.lock().received(Instant::now(), bytes);
        if let Some(registry) = led_from
            && let Some(led) = self.led.lock().get_mut(registry)
        {
            led.bytes += bytes;
        }
    }

    fn begin_lead(&self, registry: &Registry) {
        let mut led = self.led.lock();
        if led.len() < MAX_REGISTRIES || led.contains_key(registry) {
            led.entry(registry.clone()).or_default().count += 1;
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

    /// The present rates.
    pub fn received_by_now(&self) -> Received {
        let led = self.led.lock();
        let of = |(registry, led): (&Registry, &Led)| (registry_hash(registry.as_str()), led.bytes);
        Received {
            rate: self.received_lately(),
            led_bytes: led.iter().map(of).collect(),
        }
    }

    /// The present total rate, in bytes per second.
    pub fn received_lately(&self) -> u64 {
        self.total.lock().recent_rate(Instant::now())
    }
}

/// An object that this node leads, from the first byte to the last. Dropping it ends the lead.
pub struct LedPull {
    speed: Arc<Speed>,
    registry: Registry,
}

impl LedPull {
    pub fn begin(speed: Arc<Speed>, registry: Registry) -> Self {
        speed.begin_lead(&registry);
        Self { speed, registry }
    }

    /// Records bytes of the object.
    pub fn received(&self, bytes: u64) {
        self.speed.received(Some(&self.registry), bytes);
    }
}

impl Drop for LedPull {
    fn drop(&mut self) {
        self.speed.end_lead(&self.registry);
    }
}
