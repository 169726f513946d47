//! This node's link: its bandwidth as tests show it, compared with that of other nodes.

use std::collections::VecDeque;
use std::time::Duration;

use super::source_watch::Starved;
use crate::{NodeId, Time};

/// A node is slow if its bandwidth is less than 1/SLOWER of what is usual among the others, and starved if it receives
/// less than 1/SLOWER of its own.
///
/// Where links are full in both directions, or two nodes share an uplink, a good node receives less than half for
/// seconds.
pub(super) const SLOWER: u64 = 3;
/// A node that is starved for this long tests its link. In a shorter time, steps of 1 MiB in a leader's file would look
/// like it.
const STARVED_FOR: Duration = Duration::from_millis(500);
/// The pause before the next test of a link that was good. It doubles up to [`MAX_PAUSE`]: with a slow registry, nodes
/// are starved all the time.
const PAUSE: Duration = Duration::from_secs(2);
/// The same until the bandwidths of enough other nodes are known: they may have just started as well.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// See [`PAUSE`].
const MAX_PAUSE: Duration = Duration::from_secs(64);
/// The pause before the next test of a slow link, and of a good one if the node has not been starved since the last.
const RETRY: Duration = Duration::from_secs(5);
/// The pause after a test in which no other node took part. It doubles up to [`RETRY`].
const NOBODY_PAUSE: Duration = Duration::from_millis(250);
/// A node whose intake falls to half of what it was at the last test tests its link again, but not sooner than this.
const DROP_PAUSE: Duration = Duration::from_secs(1);
/// A starved node is held up once a registry has given other nodes this many times as much for [`HELD_UP_FOR`]. By
/// then, a slow registry or leader has been found out.
const HELD_UP_RATIO: u64 = 4;
/// See [`HELD_UP_RATIO`].
pub(super) const HELD_UP_FOR: Duration = Duration::from_secs(15);
/// A test that has not ended after this time has failed.
const TEST_LIMIT: Duration = Duration::from_secs(10);
/// A slow node that pulls nothing, and so does not test its link, counts as slow for this long.
const SLOW_FOR: Duration = Duration::from_secs(10 * 60);
/// The number of other nodes that must know their bandwidth: a single one may claim too much.
const MIN_OTHERS: usize = 2;
/// Links are tested until the bandwidths of this many other nodes are known, if there are as many.
const ENOUGH_OTHERS: usize = 5;
/// The most other nodes whose bandwidth is remembered.
const MAX_OTHERS: usize = 16;

/// What this node knows of its speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// It receives what its link carries, or nothing shows the contrary.
    #[default]
    Good,
    /// It receives far less than its link carries, as a test has shown: the source or upstream is the reason.
    Starved,
    /// Its link carries far less than those of others.
    Slow,
}

/// What is known of this node's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// How the node compares with others, and with its own link.
    pub condition: Condition,
    /// The bandwidth in bytes per second, once a test has shown it.
    pub bandwidth: Option<u64>,
    /// See [`Starved::is_held_up`].
    pub is_held_up: bool,
}

impl LinkState {
    /// The state of the node, if it receives far less than its link carries.
    pub fn starved(&self) -> Option<Starved> {
        let bandwidth = self.bandwidth?;
        (self.condition == Condition::Starved).then_some(Starved {
            bandwidth,
            is_held_up: self.is_held_up,
        })
    }
}

/// The result of a test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkTest {
    /// The rate from all nodes together, in bytes per second. `None`: no other node took part.
    pub bandwidth: Option<u64>,
    /// The bandwidths of the nodes that took part, in bytes per second, where they know them.
    pub others: Vec<(NodeId, u64)>,
}

/// This node's link.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// The bandwidth in bytes per second.
    bandwidth: Option<u64>,
    /// The number of other nodes.
    nodes: usize,
    /// The bandwidths of other nodes, latest first.
    others: VecDeque<(NodeId, u64)>,
    /// The rate now, and since when it has been too low.
    intake: u64,
    starved_since: Option<Time>,
    /// When the last test ended, and the rate then.
    tested: Option<(Time, u64)>,
    /// A test is running, and is given up at this time.
    testing_until: Option<Time>,
    test_at: Time,
    pause: Duration,
    /// The pause after the last test without any participant.
    nobody_pause: Duration,
    slow_until: Option<Time>,
    /// Since when the node has been starved although a registry gives other nodes far more.
    held_up_since: Option<Time>,
}

impl Link {
    /// Records the rate of what arrives. `registry_rate`: what the registry gives the nodes from which this node's
    /// sources have their objects, in bytes per second; 0: unknown. Returns whether to test the link now.
    pub fn observe(&mut self, now: Time, intake: u64, registry_rate: u64) -> bool {
        self.intake = intake;
        let gets_little = intake.saturating_mul(HELD_UP_RATIO) < registry_rate;
        if gets_little && self.condition(now) == Condition::Starved {
            self.held_up_since.get_or_insert(now);
        } else {
            self.held_up_since = None;
        }
        let is_starved = self
            .bandwidth
            .is_none_or(|own| intake.saturating_mul(SLOWER) < own);
        if !is_starved && self.slow_until.is_none() {
            self.starved_since = None;
            return false;
        }
        let since = *self.starved_since.get_or_insert(now);
        let has_dropped = self.tested.is_some_and(|(at, before)| {
            intake.saturating_mul(2) < before && now.since(at) >= DROP_PAUSE
        });
        // The pause grows while a node is starved all the time.
        let begins_anew = self
            .tested
            .is_some_and(|(at, _)| at < since && now.since(at) >= RETRY);
        let is_due = now >= self.test_at || has_dropped || begins_anew;
        let can_test = self.nodes >= MIN_OTHERS;
        self.begin_test(now, can_test && now.since(since) >= STARVED_FOR && is_due)
    }

    /// Returns whether to test the link now because too little is known. `nodes`: the number of other nodes.
    pub fn tick(&mut self, now: Time, nodes: usize) -> bool {
        self.slow_until.take_if(|until| *until <= now);
        self.nodes = nodes;
        if !self.is_unknown() || now < self.test_at {
            return false;
        }
        self.begin_test(now, nodes >= MIN_OTHERS)
    }

    fn is_unknown(&self) -> bool {
        self.bandwidth.is_none() || self.others.len() < ENOUGH_OTHERS.min(self.nodes)
    }

    fn begin_test(&mut self, now: Time, is_due: bool) -> bool {
        let begins = is_due && self.testing_until.is_none_or(|until| until <= now);
        if begins {
            self.testing_until = Some(now.after(TEST_LIMIT));
            self.test_at = now.after(TEST_LIMIT);
        }
        begins
    }

    /// Handles the result of a test.
    pub fn tested(&mut self, now: Time, test: LinkTest) {
        self.testing_until = None;
        for (node, bandwidth) in test.others {
            self.others.retain(|(other, _)| *other != node);
            self.others.push_front((node, bandwidth));
        }
        self.others.truncate(MAX_OTHERS);
        let Some(bandwidth) = test.bandwidth else {
            self.back_off(now);
            return;
        };
        self.nobody_pause = Duration::ZERO;
        self.bandwidth = Some(bandwidth);
        self.tested = Some((now, self.intake));
        let baseline = self.baseline();
        let is_slow = baseline.is_some_and(|usual| bandwidth.saturating_mul(SLOWER) < usual);
        self.slow_until = is_slow.then(|| now.after(SLOW_FOR));
        let least = if self.is_unknown() {
            FIRST_PAUSE
        } else {
            PAUSE
        };
        self.pause = if is_slow {
            RETRY
        } else {
            (self.pause * 2).clamp(least, MAX_PAUSE)
        };
        self.test_at = now.after(self.pause);
    }

    fn back_off(&mut self, now: Time) {
        self.nobody_pause = (self.nobody_pause * 2).clamp(NOBODY_PAUSE, RETRY);
        self.test_at = now.after(self.nobody_pause);
    }

    /// The usual bandwidth of other nodes: the upper quartile, as many may be slow, but at most the second best, as one
    /// may claim too much.
    fn baseline(&self) -> Option<u64> {
        let mut others: Vec<_> = self.others.iter().map(|(_, rate)| *rate).collect();
        others.sort_unstable_by(|a, b| b.cmp(a));
        others.get((others.len() / 4).max(MIN_OTHERS - 1)).copied()
    }

    /// When the condition may change by itself, or the first test is due.
    pub fn next_deadline(&self) -> Option<Time> {
        let can_test = self.nodes >= MIN_OTHERS;
        let first = (self.is_unknown() && can_test).then_some(self.test_at);
        first.into_iter().chain(self.slow_until).min()
    }

    /// The bandwidth in bytes per second, once known.
    pub fn bandwidth(&self) -> Option<u64> {
        self.bandwidth
    }

    pub fn state(&self, now: Time) -> LinkState {
        LinkState {
            condition: self.condition(now),
            bandwidth: self.bandwidth,
            is_held_up: self
                .held_up_since
                .is_some_and(|since| now.since(since) >= HELD_UP_FOR),
        }
    }

    pub fn condition(&self, now: Time) -> Condition {
        let is_tested = self.starved_since.zip(self.tested);
        if self.slow_until.is_some_and(|until| until > now) {
            Condition::Slow
        } else if is_tested.is_some_and(|(since, (at, _))| at >= since) {
            Condition::Starved
        } else {
            Condition::Good
        }
    }
}

#[cfg(test)]
mod tests;
