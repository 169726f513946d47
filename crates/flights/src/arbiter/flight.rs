//! One object in flight, and which node can be the source of which.
//!
//! The sources form a forest. Leaders and complete holders are roots; every other node receives its bytes from its
//! parent.

mod faults;
mod ranks;
mod source;

use faults::Told;
pub(super) use source::{Asked, Source, State};

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::wire::RequestNumber;
use crate::{Key, NodeId, Time};

use super::tree::TreeShape;
use super::waiting::{Waiter, Waiting};
use source::{Derived, Rank};

/// A leader without a byte is late after this time, if a node that waits for it has little time left.
const LATE: Duration = Duration::from_secs(1);
/// This many slow followers burden a node that is not slow as much as one other follower does.
const SLOW_FOLLOWERS: usize = 2;
/// The most sources kept for one flight.
const MAX_SOURCES: usize = 16_384;

#[derive(Debug)]
pub(super) struct Flight {
    pub epoch: u64,
    next_order: u32,
    pub size: Option<u64>,
    pub concurrent_objects: u32,
    /// The node that was granted the lead last.
    pub leader: Option<NodeId>,
    /// The node that should lead, as the last request says that names one.
    pub preferred_leader: Option<NodeId>,
    sources: BTreeMap<NodeId, Source>,
    /// Leaders without a byte, whose outcome other nodes wait for.
    granted: BTreeSet<NodeId>,
    /// The waiter on whose behalf this arbiter asks another one, for all that wait here.
    pub fetcher: Option<NodeId>,
    /// The followers of each node, whether it is a source or not.
    children: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// The last request of each node that ended without a pull, by its number, and whether it was answered
    /// [`Reply::Later`](crate::wire::Reply). Later messages about it are stale.
    ended: BTreeMap<NodeId, (RequestNumber, bool)>,
    /// The source that each node was told to follow last, and how often the node has complained.
    told: BTreeMap<NodeId, Told>,
    /// Nodes that have reported wrong bytes, and the roots above them.
    accusers: BTreeSet<NodeId>,
    accused: BTreeSet<NodeId>,
    shape: TreeShape,
    /// The sources that can feed others, best first.
    ranked: BTreeSet<(Rank, NodeId)>,
    pub waiting: Waiting,
    pub used: Time,
    /// The time of the next check of the flight.
    pub due: Time,
    /// The time of the next search for silent sources.
    pub lapse_at: Time,
}

impl Flight {
    pub fn new(now: Time, epoch: u64, key: &Key, holders: &[NodeId]) -> Self {
        let mut flight = Self {
            epoch,
            next_order: 1,
            size: None,
            concurrent_objects: 1,
            leader: None,
            preferred_leader: None,
            sources: BTreeMap::new(),
            granted: BTreeSet::new(),
            fetcher: None,
            children: BTreeMap::new(),
            ended: BTreeMap::new(),
            told: BTreeMap::new(),
            accusers: BTreeSet::new(),
            accused: BTreeSet::new(),
            shape: TreeShape::new(key, None, 1, 1),
            ranked: BTreeSet::new(),
            waiting: Waiting::default(),
            used: now,
            due: now,
            lapse_at: now,
        };
        for holder in holders {
            flight.put(now, *holder, State::Complete, Asked::default());
        }
        flight
    }

    pub fn get(&self, node: &NodeId) -> Option<&Source> {
        self.sources.get(node)
    }

    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.sources.values()
    }

    pub fn has_sources(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Whether another node waits for the outcome of a node: a leader without a byte, or the fetcher. Only slow nodes
    /// wait for a slow one.
    pub fn is_awaited_by(&self, is_slow: bool) -> bool {
        let is_good = |node: &NodeId| self.get(node).is_some_and(|source| !source.is_slow);
        let fetcher = self.fetcher.map(|fetcher| self.waiting.get(&fetcher));
        let is_slow_fetcher = |waiter: &Waiter| waiter.request.is_slow;
        let is_fetched = fetcher.is_some_and(|f| is_slow || !f.is_some_and(is_slow_fetcher));
        is_fetched || self.granted.iter().any(|node| is_slow || is_good(node))
    }

    /// The number of leaders without a byte.
    pub fn granted(&self) -> usize {
        self.granted.len()
    }

    /// Whether one node leads, and has had no byte for long.
    pub fn leader_is_late(&self, now: Time) -> bool {
        let is_late = |node| {
            let source: Option<&Source> = self.get(node);
            source.is_some_and(|source| now.since(source.since) >= LATE)
        };
        self.granted.len() == 1 && self.granted.iter().all(is_late)
    }

    /// The leader that waiting nodes are told about: the one granted here; else the one that the fetcher waits for; else
    /// the one that has begun.
    pub fn awaited_lead(&self) -> Option<NodeId> {
        // Always the same one while it has no byte: nodes take a change of name as a sign that the leader has failed.
        let order = |node: &&NodeId| self.get(node).map(|source| source.order);
        let granted = self.granted.iter().min_by_key(order).copied();
        let fetcher = self.fetcher.and_then(|fetcher| self.waiting.get(&fetcher));
        let elsewhere = fetcher.and_then(|fetcher| fetcher.passed_on.as_ref()?.leader);
        let has_begun = |node: &NodeId| {
            let source = self.get(node);
            source.is_some_and(|s| matches!(s.state, State::Begun | State::LeadsForAll))
        };
        granted.or(elsewhere).or(self.leader.filter(has_begun))
    }

    /// The number of followers of a node, as far as they burden it: slow followers of a node that is not slow take
    /// little, so [`SLOW_FOLLOWERS`] of them count as one.
    pub fn children(&self, node: &NodeId) -> u16 {
        let is_slow = |node: &NodeId| self.get(node).is_some_and(|source| source.is_slow);
        let children = self.children.get(node);
        let all = children.map_or(0, BTreeSet::len);
        let slow = children
            .into_iter()
            .flatten()
            .filter(|child| is_slow(child));
        let slow = if is_slow(node) { 0 } else { slow.count() };
        u16::try_from(all - slow + slow / SLOW_FOLLOWERS).unwrap_or(u16::MAX)
    }

    /// Whether no source can feed another node.
    pub fn feeds_nobody(&self) -> bool {
        self.ranked.is_empty()
    }

    /// Adds a node as a root, or changes the state of a source. Counts as hearing from it.
    pub fn put(&mut self, now: Time, node: NodeId, state: State, asked: Asked) {
        self.cut(&node);
        let order = self.next_order;
        if let Some(source) = self.sources.get_mut(&node) {
            source.state = state;
            source.asked = asked;
            source.since = now;
            source.heard = now;
            source.is_confirmed = false;
            source.is_doubtful = false;
            source.is_second_lead &= state.is_lead();
            // It starts again, or its digest has been verified.
            source.is_wrong = false;
        } else if self.sources.len() < MAX_SOURCES {
            self.next_order = order.saturating_add(1);
            let source = Source {
                node,
                state,
                asked,
                parent: None,
                derived: Derived::default(),
                order,
                since: now,
                heard: now,
                is_confirmed: false,
                is_doubtful: false,
                is_slow: false,
                is_second_lead: false,
                is_wrong: false,
                rank: None,
            };
            self.sources.insert(node, source);
        }
        if state == State::Granted && self.sources.contains_key(&node) {
            self.granted.insert(node);
        } else {
            self.granted.remove(&node);
        }
        self.refresh(node);
    }

    /// Records that a node pulls from upstream.
    pub fn lead(&mut self, now: Time, node: NodeId, state: State, asked: Asked) {
        self.put(now, node, state, asked);
        self.leader = Some(node);
    }

    /// Whether a node that is not slow should lead beside the slow leaders: no node has the complete object, and there
    /// are fewer than `most` leads.
    pub fn allows_another_lead(&self, most: u32) -> bool {
        let mut leads = 0;
        for source in self.sources.values() {
            match source.state {
                State::Complete => return false,
                State::Granted | State::Begun => leads += 1,
                _ => {}
            }
        }
        (1..most).contains(&leads)
    }

    /// Makes `node` a follower of `parent` and returns its order.
    ///
    /// A node keeps its order if that is after its parent's, so that it still precedes its own followers.
    pub fn attach(&mut self, now: Time, node: NodeId, parent: NodeId, asked: Asked) -> u32 {
        self.put(now, node, State::Following, asked);
        let after = self.get(&parent).map(|parent| parent.order);
        let mut order = self.next_order;
        if let Some(source) = self.sources.get_mut(&node) {
            source.parent = Some(parent);
            if Some(source.order) <= after {
                source.order = order;
                self.next_order = order.saturating_add(1);
            }
            order = source.order;
            self.children.entry(parent).or_default().insert(node);
        }
        self.set_told(node, parent);
        self.refresh(node);
        self.rank(&parent);
        order
    }

    /// Detaches a node from its source. It feeds no node until it has another one.
    pub fn detach(&mut self, node: &NodeId) {
        self.cut(node);
        self.refresh(*node);
    }

    fn cut(&mut self, node: &NodeId) {
        let source = self.sources.get_mut(node);
        let Some(parent) = source.and_then(|source| source.parent.take()) else {
            return;
        };
        if let Some(children) = self.children.get_mut(&parent) {
            children.remove(node);
            if children.is_empty() {
                self.children.remove(&parent);
            }
        }
        self.rank(&parent);
    }

    /// Removes a source. Its followers will ask for another.
    pub fn remove(&mut self, node: &NodeId) -> Option<Source> {
        self.cut(node);
        let source = self.sources.remove(node)?;
        self.granted.remove(node);
        if let Some(rank) = source.rank {
            self.ranked.remove(&(rank, *node));
        }
        if self.leader == Some(*node) {
            self.leader = None;
        }
        for child in self.children.get(node).cloned().unwrap_or_default() {
            self.refresh(child);
        }
        Some(source)
    }

    /// Records that a request has ended. `is_later`: the node was told to retry later.
    pub fn end(&mut self, node: NodeId, number: RequestNumber, is_later: bool) {
        if self.ended.len() < MAX_SOURCES || self.ended.contains_key(&node) {
            self.ended.insert(node, (number, is_later));
        }
    }

    /// Whether this request was answered with "retry later".
    pub fn is_answered_later(&self, node: &NodeId, number: RequestNumber) -> bool {
        self.ended.get(node) == Some(&(number, true))
    }

    /// Whether a message about a request is stale: a later request is known, or this one has ended.
    pub fn is_stale(&self, node: &NodeId, number: RequestNumber) -> bool {
        let source = self.get(node).map(|source| source.asked.number);
        let waiter = self.waiting.get(node);
        let waiter = waiter.map(|waiter| waiter.request.request_number());
        let mut known = source.into_iter().chain(waiter);
        let ended = self.ended.get(node).map(|(number, _)| *number);
        known.any(|known| number.is_earlier(known))
            || ended.is_some_and(|ended| number == ended || number.is_earlier(ended))
    }

    /// Records that a node was heard from.
    pub fn heard(&mut self, now: Time, node: &NodeId) {
        if let Some(source) = self.sources.get_mut(node) {
            source.heard = now;
            source.is_confirmed = true;
            source.is_doubtful = false;
            self.rank(node);
        }
    }

    /// Removes a waiting node.
    pub fn stop_waiting(&mut self, node: &NodeId) -> Option<Waiter> {
        self.fetcher.take_if(|fetcher| fetcher == node);
        self.waiting.remove(node)
    }

    /// Records that a leader has repeated its request. Returns whether it leads beside another one.
    pub fn ask_again(&mut self, now: Time, node: &NodeId, asked: Asked) -> bool {
        let Some(source) = self.sources.get_mut(node) else {
            return false;
        };
        source.heard = now;
        source.asked = asked;
        source.is_second_lead
    }

    /// Records that a leader was granted the lead beside another one.
    pub fn set_second_lead(&mut self, node: &NodeId) {
        if let Some(source) = self.sources.get_mut(node) {
            source.is_second_lead = true;
        }
    }

    /// Treats all sources as just heard: this node could not hear them.
    pub fn mark_all_heard(&mut self, now: Time) {
        self.sources.values_mut().for_each(|s| s.heard = now);
    }

    /// Removes the sources for which `is_over` holds.
    pub fn lapse(&mut self, is_over: impl Fn(&Source) -> bool) {
        let is_over = |source: &&Source| {
            // Its followers would be lost with it.
            let feeds = self.children.contains_key(&source.node);
            let is_needed = source.state == State::Complete && feeds;
            !is_needed && is_over(source)
        };
        let over = self.sources.values().filter(is_over);
        for node in over.map(|source| source.node).collect::<Vec<_>>() {
            self.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests;
