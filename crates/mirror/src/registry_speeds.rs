//! The rates of registries to this node, as its own pulls have shown: a peer that sends less makes a pull slower than
//! upstream alone.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lru::LruCache;
use oci::Registry;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::rate::per_second;

/// The rate expected of peers while that of the registry is unknown, in bytes per second for the whole node: less than
/// any usable uplink.
pub const MIN_RATE: u64 = 64 * 1024;
/// The divisor of the registry's rate that a peer must reach: many nodes may share the peer now, as they would share
/// the registry.
const PART: u64 = 4;
/// The time after which a registry's rate no longer counts.
const KNOWN_FOR: Duration = Duration::from_secs(5 * 60);
/// The least bytes of an object that shows a rate: in smaller ones the time to the first byte counts too much.
const MIN_SIZE: u64 = 1024 * 1024;
/// The most registries to remember.
const MAX_REGISTRIES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// The speeds of registries, and the streams of peers that share this node's link.
#[derive(Debug)]
pub struct RegistrySpeeds {
    known: Mutex<LruCache<Registry, Known>>,
    streams: Arc<AtomicUsize>,
}

impl Default for RegistrySpeeds {
    fn default() -> Self {
        Self {
            known: Mutex::new(LruCache::new(MAX_REGISTRIES)),
            streams: Arc::default(),
        }
    }
}

/// What is known of a registry.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Its rate in bytes per second, zero if it has failed, and since when that is known.
    rate: Option<(u64, Instant)>,
    /// When the client last received an object from it.
    sent: Option<Instant>,
}

/// A stream of a peer's bytes to this node's own client.
#[derive(Debug)]
pub struct Stream(Arc<AtomicUsize>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RegistrySpeeds {
    /// Records that the client received this many bytes of an object from the registry, from the request to the commit.
    pub fn received(&self, registry: &Registry, bytes: u64, took: Duration) {
        let (mut all, now) = (self.known.lock(), Instant::now());
        let known = all.get_or_insert_mut(registry.clone(), Known::default);
        known.sent = Some(now);
        if bytes >= MIN_SIZE {
            known.rate = Some((per_second(bytes, took), now));
        } else {
            // It works again, at an unknown rate.
            known.rate.take_if(|(rate, _)| *rate == 0);
        }
    }

    /// Whether the registry has sent the client an object since then.
    pub fn has_sent_since(&self, registry: &Registry, since: Instant) -> bool {
        let mut all = self.known.lock();
        let sent = all.get(registry).and_then(|known| known.sent);
        sent.is_some_and(|sent| sent > since)
    }

    /// Records that the registry has failed the client: no peer is slower.
    pub fn failed(&self, registry: &Registry) {
        let mut all = self.known.lock();
        let known = all.get_or_insert_mut(registry.clone(), Known::default);
        known.rate = Some((0, Instant::now()));
    }

    /// Begins a stream.
    pub fn stream(&self) -> Stream {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Stream(self.streams.clone())
    }

    /// The rate at which a peer must send so that it is no slower than the registry, in bytes per second: its share, as
    /// all streams share one link. `grows`: it is still receiving the object, so its leader shows the registry's
    /// present rate, and flights leave slower peers.
    pub fn required(&self, registry: Option<&Registry>, grows: bool) -> u64 {
        let mut known = self.known.lock();
        let known = registry.and_then(|registry| known.get(registry)?.rate);
        let known = known.filter(|(_, at)| at.elapsed() < KNOWN_FOR);
        let speed = known.map_or(MIN_RATE, |(speed, _)| match grows {
            true => MIN_RATE.min(speed),
            false => speed / PART,
        });
        let streams = self.streams.load(Ordering::Relaxed).max(1) as u64;
        (speed / streams).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_has_to_send_its_share_of_what_the_registry_sends() {
        let speeds = RegistrySpeeds::default();
        let registry: Registry = "quay.io".parse().expect("a registry");
        let required = |grows| speeds.required(Some(&registry), grows);
        assert_eq!(required(false), MIN_RATE);
        speeds.received(&registry, MIN_SIZE - 1, Duration::from_secs(1));
        assert_eq!(required(false), MIN_RATE, "too small to tell");
        speeds.received(&registry, 8_000_000, Duration::from_secs(2));
        assert_eq!((required(false), required(true)), (1_000_000, MIN_RATE));
        let streams = [(); 4].map(|()| speeds.stream());
        assert_eq!(required(false), 250_000);
        drop(streams);
        speeds.failed(&registry);
        assert_eq!(required(false), 1);
        speeds.received(&registry, 1, Duration::from_secs(1));
        assert_eq!(required(false), MIN_RATE, "it works again");
        speeds.received(&registry, 8_000_000, Duration::from_secs(2));
        tokio::time::advance(KNOWN_FOR).await;
        assert_eq!(required(false), MIN_RATE);
    }
}
