//! Sources that fail, are slow, or have wrong bytes.

use super::{Asked, Flight, Source, State};
use crate::{NodeId, Time};

/// A source that has reported this many followers as too slow is itself the slow one.
const MAX_FOLLOWERS_REPORTED: u8 = 4;

/// Whether a node that finds its leader far too slow may lead as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondLead {
    /// It leads as well.
    Granted,
    /// No other node has reported the leader.
    NeedsSecondReport,
    /// Another node leads as well, or a node has the complete object.
    Unfounded,
}

impl Flight {
    /// Ranks a source last until it is heard from: a node reported it as failed.
    pub fn mark_doubtful(&mut self, node: &NodeId) {
        if let Some(source) = self.sources.get_mut(node) {
            source.is_doubtful = true;
            self.rank(node);
        }
    }

    /// Whether a node is slow, or a node above it is.
    pub fn is_behind_slow_node(&self, node: &NodeId) -> bool {
        self.get(node)
            .is_some_and(|source| source.is_behind_slow_node)
    }

    /// Sets whether a node is slow.
    pub fn set_slow(&mut self, node: &NodeId, is_slow: bool) {
        let Some(source) = self.sources.get_mut(node) else {
            return;
        };
        if std::mem::replace(&mut source.is_slow, is_slow) == is_slow {
            return;
        }
        let parent = source.parent;
        self.refresh(*node);
        if let Some(parent) = parent {
            self.rank(&parent);
        }
    }

    /// Handles a source's report that a follower is too slow. Returns the node that is probably slow.
    pub fn follower_too_slow(&mut self, by: &NodeId, order: u32) -> Option<NodeId> {
        let children = self.children.get(by)?;
        // A node that is already known as slow may have gained followers before it was.
        let feeds = |child: &NodeId| {
            let mut fed = self.children.get(child).into_iter().flatten();
            fed.any(|fed| self.get(fed).is_some_and(|fed| !fed.is_slow))
        };
        let is_meant = |child: &&NodeId| {
            let is_it = |c: &Source| c.order == order && (!c.is_slow || feeds(child));
            self.get(child).is_some_and(is_it)
        };
        let child = *children.iter().find(is_meant)?;
        let reported_slow_by = &mut self.sources.get_mut(&child)?.reported_slow_by;
        let is_news = reported_slow_by.replace(*by) != Some(*by);
        let source = self.sources.get_mut(by)?;
        source.followers_reported = source.followers_reported.saturating_add(u8::from(is_news));
        let is_itself =
            source.followers_reported >= MAX_FOLLOWERS_REPORTED && source.parent.is_some();
        Some(if is_itself { *by } else { child })
    }

    /// Decides on a second lead beside a leader that is far too slow for `node`.
    ///
    /// It takes two reports by different nodes, unless `node` is the only one: a single reporter may be slow itself.
    pub fn request_second_lead(
        &mut self,
        now: Time,
        slow: NodeId,
        node: NodeId,
        asked: Asked,
    ) -> SecondLead {
        if slow == node || !self.is_led_by(&slow) {
            return SecondLead::Unfounded;
        }
        let is_second = *self.slow_leader_reporter.get_or_insert(node) != node;
        let is_other = |other: &NodeId| *other != slow && *other != node;
        let has_others = !self.waiting.is_empty() || self.sources.keys().any(is_other);
        if has_others && !is_second {
            return SecondLead::NeedsSecondReport;
        }
        self.set_slow(&slow, true);
        // The slow lead cannot be called back; the faster one wins.
        self.lead(now, node, State::Granted, asked);
        self.set_slow(&node, false);
        SecondLead::Granted
    }

    /// Whether this node is the only root and pulls from upstream. With a complete holder, upstream is not needed.
    fn is_led_by(&self, node: &NodeId) -> bool {
        let is_root = |source: &&Source| source.state.is_lead() || source.state == State::Complete;
        let mut roots = self.sources.values().filter(is_root);
        let is_it = |root: &Source| root.node == *node && root.state.is_lead();
        roots.next().is_some_and(is_it) && roots.next().is_none()
    }

    /// Excludes all nodes below the root of a node that received wrong bytes: it is unknown which of them corrupted the
    /// bytes.
    pub fn mark_wrong(&mut self, node: &NodeId) {
        let mut root = *node;
        // A ring, which reports can close, has no root.
        for _ in 0..self.sources.len() {
            match self.get(&root).and_then(|source| source.parent) {
                Some(parent) => root = parent,
                None => break,
            }
        }
        let mut below = vec![root];
        while let Some(node) = below.pop() {
            if let Some(source) = self.sources.get_mut(&node)
                && !std::mem::replace(&mut source.is_wrong, true)
            {
                below.extend(self.children.get(&node).into_iter().flatten());
            }
        }
        self.refresh(root);
    }
}
