//! Whether what comes is far less than what usually does. Only what comes in the same way is compared: a cluster is often
//! many times faster inside than its link to a registry, and one registry faster than another.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use oci::Registry;
use tokio::time::Instant;

use super::rate::per_second;

/// Rates that are compared with each other are those over so long at least…
const WINDOW: Duration = Duration::from_secs(3);
/// …and this at most: where who leads fetches several ranges of an object at once, nothing comes in order for seconds…
const WINDOW_LAST: Duration = Duration::from_secs(10);
/// …since bytes were last not waited for for so long…
const PAUSE: Duration = Duration::from_secs(1);
/// …from one of some marks that lie so far apart…
const MARK_EVERY: Duration = Duration::from_millis(200);
/// …in which so much of the time, in percent, bytes were waited for: else it was for the client to take them.
const WAITED_PERCENT: u32 = 90;
/// The best rate counts for so long…
const REMEMBERED: Duration = Duration::from_secs(600);
/// …and then the best of those since, one in so long at the most.
const NOTED_EVERY: Duration = Duration::from_secs(10);
/// A rate below so many parts of the best is low.
const LOW: u64 = 4;
/// Ways that are remembered.
const MOST_WAYS: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");
/// Who follows a lead that has got bytes for longer gets at first what had come before, as fast as a peer can send it.
const FRESH: Duration = Duration::from_secs(1);

/// How bytes come to this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// From nodes that have all of it, if by way of others.
    Peers,
    /// From a registry while it comes from there, to this node or by way of who leads.
    Registry(Registry),
}

impl Way {
    /// How bytes come to who follows a lead that got them for so long, if somebody leads. `None`: now in one way, now in
    /// the other.
    pub fn of(led_for: Option<Duration>, registry: Option<&Registry>) -> Option<Self> {
        match led_for {
            None => Some(Self::Peers),
            Some(led_for) if led_for <= FRESH => registry.cloned().map(Self::Registry),
            Some(_) => None,
        }
    }
}

/// What comes and what came, way by way.
#[derive(Debug)]
pub struct Usual(LruCache<Way, History>);

impl Default for Usual {
    fn default() -> Self {
        Self(LruCache::new(MOST_WAYS))
    }
}

impl Usual {
    /// Bytes of one object came, that had been `waited` for. Says whether it gets far less than one did some time ago, and
    /// all objects together do: one alone may share the way with others, and all together may be one at the end.
    pub fn came(
        &mut self,
        (way, object): (&Way, &mut Window),
        now: Instant,
        bytes: u64,
        waited: Duration,
    ) -> bool {
        let history = self.0.get_or_insert_mut(way.clone(), History::default);
        let together = history.window.came(now, bytes, waited);
        let alone = object.came(now, bytes, waited);
        let is_together = together.is_some_and(|rate| history.together.outdoes(now, rate));
        let is_alone = alone.is_some_and(|rate| history.alone.outdoes(now, rate));
        is_together && is_alone
    }
}

/// Of one way.
#[derive(Debug, Default)]
struct History {
    window: Window,
    /// Of all objects together.
    together: Best,
    /// Of a single one.
    alone: Best,
}

/// Rates in bytes a second that were the best since, the best first.
#[derive(Debug, Default)]
struct Best(VecDeque<(Instant, u64)>);

impl Best {
    /// Notes a rate, and says whether there was one that is many times as high.
    fn outdoes(&mut self, now: Instant, rate: u64) -> bool {
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

/// The last span of time, and what came in it.
#[derive(Debug, Default)]
pub struct Window {
    now: Mark,
    /// Until when it is known whether somebody waited.
    until: Option<Instant>,
    marks: VecDeque<(Instant, Mark)>,
}

/// What had come by then, and had been waited for.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    bytes: u64,
    waited: Duration,
}

impl Window {
    /// Bytes came that had been `waited` for. Returns the rate, in bytes a second, if somebody waited throughout.
    fn came(&mut self, now: Instant, bytes: u64, waited: Duration) -> Option<u64> {
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
