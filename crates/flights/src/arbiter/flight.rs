//! One key in flight: who can give it to whom. A forest: leads and complete holders are roots, everybody else takes its
//! bytes from the node above.

use std::collections::{BTreeMap, BTreeSet};

use crate::seeks::is_earlier;
use crate::wire::Seek;
use crate::{Key, NodeId, Time};

use super::place::{self, Shape};
use super::waiting::Waiting;

/// Sources of one flight that are kept.
const MAX_SOURCES: usize = 16_384;

/// How far a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It was told to lead and has no byte yet.
    Granted,
    /// It pulls from upstream and has bytes.
    Begun,
    /// It takes its bytes from another source.
    Following,
    Complete,
}

impl State {
    pub fn is_lead(self) -> bool {
        matches!(self, Self::Granted | Self::Begun)
    }
}

/// A question of a node: its number, and the group that it was asked for, where this arbiter has seen it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub number: u64,
    pub group: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Source {
    pub node: NodeId,
    pub state: State,
    /// What it does came of this question.
    pub asked: Asked,
    pub parent: Option<NodeId>,
    /// Its bytes come from a root, over however many hops. Nobody else can feed others.
    is_fed: bool,
    /// Hops to a root.
    pub depth: u16,
    /// Those that it feeds come after it.
    pub order: u32,
    pub heard: Time,
    /// It has been heard of since it was told to lead.
    pub is_confirmed: bool,
    /// Upstream sends it other objects.
    is_busy: bool,
    /// Somebody said that it was of no use, and it has not been heard of since.
    pub is_doubted: bool,
    rank: Option<(bool, u64, u64)>,
}

#[derive(Debug)]
pub(super) struct Flight {
    pub epoch: u64,
    next_order: u32,
    pub size: Option<u64>,
    pub streams: u8,
    /// Whoever was told to lead last.
    pub leader: Option<NodeId>,
    sources: BTreeMap<NodeId, Source>,
    /// Those who were told to lead and have no byte yet.
    granted: BTreeSet<NodeId>,
    /// Who takes its bytes from a node, whether that is a source or not.
    children: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// The last question of a node that came to nothing: what is said of it later was said before.
    ended: BTreeMap<NodeId, u64>,
    shape: Shape,
    /// Those who can feed others, the best first.
    ranked: BTreeSet<((bool, u64, u64), NodeId)>,
    pub waiting: Waiting,
    pub used: Time,
    /// When it is to be looked at next, and when those who are silent are looked for.
    pub due: Time,
    pub lapse_at: Time,
}

impl Flight {
    pub fn new(now: Time, epoch: u64, key: &Key, holders: &[NodeId]) -> Self {
        let mut flight = Self {
            epoch,
            next_order: 1,
            size: None,
            streams: 1,
            leader: None,
            sources: BTreeMap::new(),
            granted: BTreeSet::new(),
            children: BTreeMap::new(),
            ended: BTreeMap::new(),
            shape: Shape::new(key, None, 1, 1),
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

    /// Somebody who was told to lead and has no byte yet.
    pub fn granted(&self) -> Option<NodeId> {
        self.granted.first().copied()
    }

    /// Whether upstream sends that one other objects meanwhile.
    pub fn is_granted_busy(&self) -> bool {
        let granted = self.granted.first().and_then(|node| self.get(node));
        granted.is_some_and(|source| source.is_busy)
    }

    pub fn children(&self, node: &NodeId) -> u16 {
        let children = self.children.get(node).map_or(0, BTreeSet::len);
        u16::try_from(children).unwrap_or(u16::MAX)
    }

    /// Nobody could be told to follow anybody.
    pub fn feeds_nobody(&self) -> bool {
        self.ranked.is_empty()
    }

    /// The form of the tree, as it is now.
    pub fn shape(&mut self, key: &Key, members: usize) -> Shape {
        let shape = Shape::new(key, self.size, self.streams, members);
        if shape != self.shape {
            self.shape = shape;
            for node in self.sources.keys().copied().collect::<Vec<_>>() {
                self.rank(&node);
            }
        }
        shape
    }

    /// Makes a root of a node, or changes the state of one. It is heard of.
    pub fn put(&mut self, now: Time, node: NodeId, state: State, asked: Asked) {
        self.cut(&node);
        let order = self.next_order;
        if let Some(source) = self.sources.get_mut(&node) {
            source.state = state;
            source.asked = asked;
            source.heard = now;
            source.is_confirmed = false;
            source.is_doubted = false;
        } else if self.sources.len() < MAX_SOURCES {
            self.next_order = order.saturating_add(1);
            let source = Source {
                node,
                state,
                asked,
                parent: None,
                is_fed: false,
                depth: 0,
                order,
                heard: now,
                is_confirmed: false,
                is_busy: false,
                is_doubted: false,
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

    /// Lets `node` take its bytes from `parent`. Returns its place in the order.
    pub fn attach(&mut self, now: Time, node: NodeId, parent: NodeId, asked: Asked) -> u32 {
        self.put(now, node, State::Following, asked);
        let order = self.next_order;
        self.next_order = order.saturating_add(1);
        if let Some(source) = self.sources.get_mut(&node) {
            source.parent = Some(parent);
            source.order = order;
            self.children.entry(parent).or_default().insert(node);
        }
        self.refresh(node);
        self.rank(&parent);
        order
    }

    /// Takes a node off the one that feeds it: until it is fed again it feeds nobody.
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

    /// Takes a node out. Those it fed will ask.
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

    /// Works out whether a node and those below it are fed, and how deep they are.
    fn refresh(&mut self, node: NodeId) {
        let mut stale = vec![node];
        while let Some(node) = stale.pop() {
            let Some(source) = self.sources.get(&node) else {
                continue;
            };
            let was = (source.is_fed, source.depth);
            let above = source.parent.map(|parent| self.sources.get(&parent));
            let is = match above {
                Some(Some(parent)) if parent.is_fed => (true, parent.depth.saturating_add(1)),
                // In a ring nobody is fed, so nothing runs in circles here.
                Some(_) => (false, source.depth),
                None => (matches!(source.state, State::Begun | State::Complete), 0),
            };
            if let Some(source) = self.sources.get_mut(&node) {
                (source.is_fed, source.depth) = is;
            }
            self.rank(&node);
            if is != was {
                stale.extend(self.children.get(&node).into_iter().flatten());
            }
        }
    }

    /// What came of a question of a node has ended.
    pub fn end(&mut self, node: NodeId, number: u64) {
        if self.ended.len() < MAX_SOURCES {
            self.ended.insert(node, number);
        }
    }

    /// Whether a message about a question of a node comes too late: a later one is known, or this one has ended.
    pub fn is_stale(&self, node: &NodeId, number: u64) -> bool {
        let source = self.get(node).map(|source| source.asked.number);
        let waiter = self.waiting.get(node).map(|waiter| waiter.seek.number);
        let mut known = source.into_iter().chain(waiter);
        let ended = self.ended.get(node);
        known.any(|known| is_earlier(number, known))
            || ended.is_some_and(|ended| number == *ended || is_earlier(number, *ended))
    }

    /// A node is heard of.
    pub fn heard(&mut self, now: Time, node: &NodeId, is_busy: bool) {
        if let Some(source) = self.sources.get_mut(node) {
            source.heard = now;
            source.is_confirmed = true;
            source.is_doubted = false;
            source.is_busy = is_busy;
            self.rank(node);
        }
    }

    /// A node that leads asks whether it does.
    pub fn ask_again(&mut self, now: Time, node: &NodeId, number: u64) {
        if let Some(source) = self.sources.get_mut(node) {
            source.heard = now;
            source.asked.number = number;
        }
    }

    /// Whatever was said meanwhile could not be heard.
    pub fn spare(&mut self, now: Time) {
        self.sources.values_mut().for_each(|s| s.heard = now);
    }

    /// Somebody says that a node is of no use.
    pub fn doubt(&mut self, node: &NodeId) {
        if let Some(source) = self.sources.get_mut(node) {
            source.is_doubted = true;
            self.rank(node);
        }
    }

    fn rank(&mut self, node: &NodeId) {
        let children = self.children(node);
        let Some(source) = self.sources.get_mut(node) else {
            return;
        };
        let cost = self.shape.cost(node, source.depth, children);
        // Who is there for the longest is likely to be the furthest. Complete holders are all alike: by lot.
        let lot = match source.state {
            State::Complete => place::lot(node, self.epoch),
            _ => u64::from(source.order),
        };
        let rank = source.is_fed.then_some((source.is_doubted, cost, lot));
        if rank != source.rank {
            if let Some(rank) = source.rank {
                self.ranked.remove(&(rank, *node));
            }
            if let Some(rank) = rank {
                self.ranked.insert((rank, *node));
            }
            source.rank = rank;
        }
    }

    /// The best source for whoever asks, which nobody feeds now. So nobody below it is fed, and no ring is closed.
    pub fn choose(&self, asker: &NodeId, seek: &Seek) -> Option<NodeId> {
        let mut ranked = self.ranked.iter().map(|(_, node)| node);
        let usable = |node: &&NodeId| *node != asker && !seek.failed.contains(node);
        ranked.find(usable).copied()
    }

    /// Takes out those of whom nothing was heard for too long, by what they do.
    pub fn lapse(&mut self, is_over: impl Fn(&Source) -> bool) {
        let is_over = |source: &&Source| {
            // Those it feeds would be lost with it.
            let is_needed = source.state == State::Complete && self.children(&source.node) > 0;
            !is_needed && is_over(source)
        };
        let over = self.sources.values().filter(is_over);
        for node in over.map(|source| source.node).collect::<Vec<_>>() {
            self.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn seek() -> Seek {
        Seek {
            key: Key::of("a"),
            number: 1,
            group: 1,
            size: None,
            streams: 1,
            prefer: None,
            failed: Vec::new(),
            offset: 0,
            yields: 0,
            patient: true,
            barred: false,
            silent: None,
            asker: None,
        }
    }

    fn flight() -> Flight {
        Flight::new(Time(0), 1, &Key::of("a"), &[])
    }

    #[test]
    fn nobody_is_fed_by_those_it_feeds_in_whatever_order_they_came() {
        let (mut flight, asked) = (flight(), Asked::default());
        // A new arbiter hears of the child first.
        flight.attach(Time(0), node(2), node(1), asked);
        flight.attach(Time(0), node(3), node(2), asked);
        assert_eq!(flight.choose(&node(9), &seek()), None);
        flight.attach(Time(0), node(1), node(0), asked);
        flight.put(Time(0), node(0), State::Begun, asked);
        assert_eq!(flight.children(&node(1)), 1);
        assert_eq!(flight.get(&node(3)).map(|source| source.depth), Some(3));
        flight.detach(&node(1));
        assert_eq!(flight.choose(&node(1), &seek()), Some(node(0)));
        let failed = vec![node(0)];
        let seek = Seek { failed, ..seek() };
        assert_eq!(flight.choose(&node(1), &seek), None);
    }

    #[test]
    fn who_has_lost_its_source_is_none() {
        let (mut flight, asked) = (flight(), Asked::default());
        flight.put(Time(0), node(1), State::Begun, asked);
        flight.attach(Time(0), node(2), node(1), asked);
        flight.remove(&node(1));
        assert_eq!(flight.choose(&node(9), &seek()), None);
        // A ring that reports have closed feeds nobody either.
        flight.attach(Time(0), node(3), node(2), asked);
        flight.attach(Time(0), node(2), node(3), asked);
        assert_eq!(flight.choose(&node(9), &seek()), None);
    }

    #[test]
    fn who_is_doubted_comes_last_until_heard_of() {
        let (mut flight, asked) = (flight(), Asked::default());
        flight.put(Time(0), node(1), State::Begun, asked);
        flight.attach(Time(0), node(2), node(1), asked);
        flight.doubt(&node(2));
        assert_eq!(flight.choose(&node(9), &seek()), Some(node(1)));
        flight.attach(Time(0), node(3), node(1), asked);
        flight.doubt(&node(1));
        flight.heard(Time(0), &node(2), false);
        assert_ne!(flight.choose(&node(9), &seek()), Some(node(1)));
    }
}
