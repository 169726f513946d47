//! Detects throughput far below the baseline: what the same path gave lately.
//!
//! Paths are compared only with themselves. A cluster is often many times faster inside than its link to a registry,
//! and registries differ.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use oci::Registry;
use tokio::time::Instant;

use super::rate::per_second;

/// Rates are measured over at least this time.
const WINDOW: Duration = Duration::from_secs(3);
/// Rates are measured over at most this time. If the leader fetches several ranges of an object at once, no bytes
/// arrive in order for seconds.
const WINDOW_LAST: Duration = Duration::from_secs(10);
/// The window restarts after this long spent not waiting for the source.
const PAUSE: Duration = Duration::from_secs(1);
/// The interval between samples.
const MARK_EVERY: Duration = Duration::from_millis(200);
/// The share of the time, in percent, that must be spent waiting for the source. Otherwise the client is the limit.
const WAITED_PERCENT: u32 = 90;
/// The maximum is remembered for this long, then the next one since.
const REMEMBERED: Duration = Duration::from_secs(600);
/// The minimal interval between remembered maxima.
const NOTED_EVERY: Duration = Duration::from_secs(10);
/// A rate below 1/LOW of the maximum is low.
const LOW: u64 = 4;
/// The most paths to remember.
const MAX_PATHS: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");
/// A follower that joins a leader later than this first receives earlier bytes, at the rate of a peer.
const FRESH: Duration = Duration::from_secs(1);

/// How bytes reach this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// From complete holders, directly or through other nodes.
    Peers,
    /// From a registry as it sends them, to this node or through a leader.
    Registry(Registry),
}

impl Path {
    /// The path of bytes through a leader that has received them for `led_for`, if there is one. `None`: mixed.
    pub fn of(led_for: Option<Duration>, registry: Option<&Registry>) -> Option<Self> {
        match led_for {
            None => Some(Self::Peers),
            Some(led_for) if led_for <= FRESH => registry.cloned().map(Self::Registry),
            Some(_) => None,
        }
    }
}

/// The recent throughput of each path.
#[derive(Debug)]
pub struct ThroughputBaseline(LruCache<Path, History>);

impl Default for ThroughputBaseline {
    fn default() -> Self {
        Self(LruCache::new(MAX_PATHS))
    }
}

impl ThroughputBaseline {
    /// Records bytes of one object that took `waited` to arrive.
    ///
    /// Returns whether this object, and all objects together, receive far less than some time ago. A single object may
    /// share the path with others, and all together may be a single one at the end.
    pub fn received(
        &mut self,
        (path, object): (&Path, &mut Window),
        now: Instant,
        bytes: u64,
        waited: Duration,
    ) -> bool {
        let history = self.0.get_or_insert_mut(path.clone(), History::default);
        let together = history.window.received(now, bytes, waited);
        let alone = object.received(now, bytes, waited);
        let is_together = together.is_some_and(|rate| history.together.note_and_exceeds(now, rate));
        let is_alone = alone.is_some_and(|rate| history.alone.note_and_exceeds(now, rate));
        is_together && is_alone
    }
}

/// The history of one path.
#[derive(Debug, Default)]
struct History {
    window: Window,
    /// All objects together.
    together: RecentMax,
    /// A single object.
    alone: RecentMax,
}

/// Recent maxima in bytes per second, highest first.
#[derive(Debug, Default)]
struct RecentMax(VecDeque<(Instant, u64)>);

impl RecentMax {
    /// Records a rate. Returns whether the recent maximum is far above it.
    fn note_and_exceeds(&mut self, now: Instant, rate: u64) -> bool {
        let is_old = |(at, _): &mut (Instant, u64)| now - *at > REMEMBERED;
        while self.0.pop_front_if(is_old).is_some() {}
        while self.0.pop_back_if(|(_, best)| *best <= rate).is_some() {}
        let is_news = |(at, _): &(Instant, u64)| now - *at >= NOTED_EVERY;
        if self.0.back().is_none_or(is_news) {
            self.0.push_back((now, rate));
        }
        let best = self.0.front().map_or(0, |(_, best)| *best);
        rate.saturating_mul(LOW) < best
    }
}

/// The recent time span, and the bytes received in it.
#[derive(Debug, Default)]
pub struct Window {
    now: Mark,
    /// The end of the time covered.
    until: Option<Instant>,
    marks: VecDeque<(Instant, Mark)>,
}

/// The totals at some time.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    bytes: u64,
    waited: Duration,
}

impl Window {
    /// Records bytes. Returns the rate in bytes per second if the source was the limit throughout.
    fn received(&mut self, now: Instant, bytes: u64, waited: Duration) -> Option<u64> {
        let until = self.until.unwrap_or(now);
        if (now - until).saturating_sub(waited) >= PAUSE {
            *self = Self::default();
        }
        self.until = Some(now);
        self.now.waited += waited.min(now - until);
        self.now.bytes += bytes;
        let is_news = |(at, _): &(Instant, Mark)| now - *at >= MARK_EVERY;
        if self.marks.back().is_none_or(is_news) {
            self.marks.push_back((now, self.now));
        }
        let is_over = |(at, _): &(Instant, Mark)| now - *at >= WINDOW_LAST;
        while self.marks.get(1).is_some_and(is_over) {
            self.marks.pop_front();
        }
        let (begin, before) = self.marks.front()?;
        let took = now - *begin;
        let has_waited = (self.now.waited - before.waited) * 100 >= took * WAITED_PERCENT;
        (took >= WINDOW && has_waited).then(|| per_second(self.now.bytes - before.bytes, took))
    }
}

#[cfg(test)]
mod tests;
