//! One key in flight: who can give it to whom. A forest: leads and complete holders are roots, everybody else takes its
//! bytes from the node above.

mod blame;
mod source;

pub(super) use blame::Complaint;
pub(super) use source::{Asked, Source, State};

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::seeks::{HEART_SILENCE, Place, is_earlier};
use crate::wire::Seek;
use crate::{Key, NodeId, Time};

use super::place::{self, Shape};
use super::waiting::{Awaited, Waiter, Waiting};
use source::Rank;

/// Sources of one flight that are kept.
const MAX_SOURCES: usize = 16_384;

/// A question that has come to nothing, by its number.
#[derive(Clone, Copy, Debug)]
struct Ended {
    number: u64,
    /// The node was told to ask again later.
    is_put_off: bool,
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
    /// Those who were told to lead and have no byte yet, or ask elsewhere.
    awaited: BTreeSet<NodeId>,
    /// The lead that those wait for who ask elsewhere, and when one of them said so.
    above: Option<(Awaited, Time)>,
    /// Since when bytes come from upstream to those who had none before.
    begun: BTreeMap<NodeId, Time>,
    /// Who said first that whoever leads is far too slow.
    complained: Option<NodeId>,
    /// Who takes its bytes from a node, whether that is a source or not.
    children: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// The last question of a node that came to nothing: what is said of it later was said before.
    ended: BTreeMap<NodeId, Ended>,
    shape: Shape,
    /// Those who can feed others, the best first.
    ranked: BTreeSet<(Rank, NodeId)>,
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
            awaited: BTreeSet::new(),
            above: None,
            begun: BTreeMap::new(),
            complained: None,
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

    /// Somebody who was told to lead and has no byte yet, or asks elsewhere.
    pub fn awaited(&self) -> Option<NodeId> {
        self.awaited.first().copied()
    }

    /// The lead that those who wait wait for: where somebody asks elsewhere, the one that this one waits for there, or
    /// that the one before it did, or the one that has begun here and feeds another district first.
    pub fn awaited_lead(&self, now: Time) -> Awaited {
        let awaited = self.awaited.first().and_then(|node| self.get(node));
        let of_own = awaited.filter(|source| source.state != State::Sent);
        let own = of_own.map(|lead| Awaited {
            lead: Some(lead.node),
            is_busy: lead.is_busy,
        });
        let above = self.above.filter(|(_, at)| now.since(*at) < HEART_SILENCE);
        let begun = self.leader.and_then(|leader| self.get(&leader));
        let begun = begun.filter(|source| source.state == State::Begun);
        let begun = begun.map(|lead| Awaited {
            lead: Some(lead.node),
            is_busy: false,
        });
        let above = above.map(|(above, _)| above);
        own.or(above).or(begun).unwrap_or_default()
    }

    /// Whether a node of this district pulls from upstream what the districts pass on to each other.
    pub fn leads_for_all(&self, node: &NodeId) -> bool {
        let (epoch, order) = (self.epoch, 0);
        let leads = |source: &Source| source.state.is_lead();
        Place { epoch, order }.is_of_district() && self.get(node).is_some_and(leads)
    }

    /// For how long what comes by way of a source has come from upstream, if it does: for ever, if that is not known.
    pub fn led_for(&self, now: Time, source: &NodeId) -> Option<Duration> {
        let root = self.get(&self.get(source)?.root);
        if root.is_some_and(|root| root.state == State::Complete) {
            return None;
        }
        let begun = root.and_then(|root| self.begun.get(&root.node));
        Some(begun.map_or(Duration::MAX, |begun| now.since(*begun)))
    }

    /// Those who take their bytes from a node, not counting, of one that is not slow itself, the slow ones, who take
    /// little.
    pub fn children(&self, node: &NodeId) -> u16 {
        let is_slow = |node: &NodeId| self.get(node).is_some_and(|source| source.is_slow);
        let counts = |child: &&NodeId| is_slow(node) || !is_slow(child);
        let children = self.children.get(node).into_iter().flatten();
        u16::try_from(children.filter(counts).count()).unwrap_or(u16::MAX)
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
        let was_granted = self.get(&node).map(|s| s.state) == Some(State::Granted);
        if let Some(source) = self.sources.get_mut(&node) {
            source.state = state;
            source.asked = asked;
            source.heard = now;
            source.is_confirmed = false;
            source.is_doubted = false;
            // It begins anew, or its digest has been looked at.
            source.is_wrong = false;
        } else if self.sources.len() < MAX_SOURCES {
            self.next_order = order.saturating_add(1);
            let source = Source {
                node,
                state,
                asked,
                parent: None,
                is_fed: false,
                root: node,
                has_landed: false,
                depth: 0,
                order,
                heard: now,
                is_confirmed: false,
                is_busy: false,
                is_doubted: false,
                is_slow: false,
                is_held_up: false,
                is_wrong: false,
                outran: 0,
                outrun_by: None,
                rank: None,
            };
            self.sources.insert(node, source);
        }
        if state.is_awaited() && self.sources.contains_key(&node) {
            self.awaited.insert(node);
        } else {
            self.awaited.remove(&node);
        }
        if state != State::Begun {
            self.begun.remove(&node);
        } else if was_granted {
            self.begun.insert(node, now);
        }
        self.refresh(node);
    }

    /// Has a node pull it from upstream.
    pub fn lead(&mut self, now: Time, node: NodeId, state: State, asked: Asked) {
        self.put(now, node, state, asked);
        self.leader = Some(node);
    }

    /// Lets `node` take its bytes from `parent`. Returns its place in the order: the one that it has, if that comes after
    /// its parent's, so that it still comes before those that it feeds.
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
        self.awaited.remove(node);
        self.begun.remove(node);
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

    /// Works out whether a node and those below it are fed, how deep they are, and whether somebody slow is above them.
    fn refresh(&mut self, node: NodeId) {
        let mut stale = vec![node];
        while let Some(node) = stale.pop() {
            let Some(source) = self.sources.get(&node) else {
                continue;
            };
            let place = |s: &Source| (s.is_fed, s.root, s.has_landed, s.depth, s.is_held_up);
            let was = place(source);
            let above = source.parent.map(|parent| self.sources.get(&parent));
            let (is_slow, is_wrong) = (source.is_slow, source.is_wrong);
            let is = match above {
                Some(Some(parent)) if parent.is_fed && !is_wrong => {
                    let depth = parent.depth.saturating_add(1);
                    let is_held_up = is_slow || parent.is_held_up;
                    (true, parent.root, parent.has_landed, depth, is_held_up)
                }
                // In a ring nobody is fed, so nothing runs in circles here.
                Some(_) => (false, source.root, false, source.depth, is_slow),
                None => {
                    let has_bytes =
                        matches!(source.state, State::Begun | State::Fed | State::Complete);
                    let has_landed = source.state == State::Complete;
                    (has_bytes && !is_wrong, node, has_landed, 0, is_slow)
                }
            };
            if let Some(source) = self.sources.get_mut(&node) {
                (
                    source.is_fed,
                    source.root,
                    source.has_landed,
                    source.depth,
                    source.is_held_up,
                ) = is;
            }
            self.rank(&node);
            if is != was {
                stale.extend(self.children.get(&node).into_iter().flatten());
            }
        }
    }

    /// What came of a question of a node has ended.
    pub fn end(&mut self, node: NodeId, number: u64) {
        self.ends(node, number, false);
    }

    /// A node is told to ask again later.
    pub fn put_off(&mut self, waiter: &Waiter) {
        self.ends(waiter.node, waiter.seek.number, true);
    }

    fn ends(&mut self, node: NodeId, number: u64, is_put_off: bool) {
        if self.ended.len() < MAX_SOURCES || self.ended.contains_key(&node) {
            let ended = Ended { number, is_put_off };
            self.ended.insert(node, ended);
        }
    }

    /// Whether the answer to this question of a node was to ask again later.
    pub fn is_put_off(&self, node: &NodeId, number: u64) -> bool {
        let ended = self.ended.get(node);
        ended.is_some_and(|ended| ended.number == number && ended.is_put_off)
    }

    /// Whether a message about a question of a node comes too late: a later one is known, or this one has ended.
    pub fn is_stale(&self, node: &NodeId, number: u64) -> bool {
        let source = self.get(node).map(|source| source.asked.number);
        let waiter = self.waiting.get(node).map(|waiter| waiter.seek.number);
        let mut known = source.into_iter().chain(waiter);
        let ended = self.ended.get(node).map(|ended| ended.number);
        known.any(|known| is_earlier(number, known))
            || ended.is_some_and(|ended| number == ended || is_earlier(number, ended))
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

    /// A node that asks elsewhere waits for a lead there.
    pub fn asks(&mut self, now: Time, node: &NodeId, awaited: Awaited) {
        self.heard(now, node, false);
        self.above = Some((awaited, now));
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

    fn rank(&mut self, node: &NodeId) {
        let children = self.children(node);
        let leads_for_all = self.leads_for_all(node);
        let Some(source) = self.sources.get_mut(node) else {
            return;
        };
        let is_complete = source.state == State::Complete;
        let goes_on = source.has_landed && !is_complete;
        let cost = self.shape.cost(node, source.depth, children, goes_on);
        // Who is there for the longest is likely to be the furthest. Complete holders are all alike: by lot.
        let lot = if is_complete {
            place::lot(node, self.epoch)
        } else {
            u64::from(source.order)
        };
        let rank = source.is_fed.then_some(Rank {
            is_held_up: source.is_held_up,
            is_doubted: source.is_doubted,
            leads_for_all,
            cost,
            lot,
        });
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
        let usable = |(_, node): &&(Rank, NodeId)| node != asker && !seek.failed.contains(node);
        // Slow ones feed each other: to anybody else they would be a burden.
        let slow = self.ranked.iter().rev();
        let slow = slow.take_while(|(rank, _)| rank.is_held_up && seek.lags);
        let best = slow.filter(usable).last();
        let best = best.or_else(|| self.ranked.iter().find(usable));
        best.map(|(_, node)| *node)
    }

    /// Takes out those of whom nothing was heard for too long, by what they do.
    pub fn lapse(&mut self, is_over: impl Fn(&Source) -> bool) {
        let is_over = |source: &&Source| {
            // Those it feeds would be lost with it.
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
