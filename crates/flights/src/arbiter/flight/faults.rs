//! Sources that fail, are slow, or have wrong bytes.

use super::{Flight, MAX_SOURCES};
use crate::NodeId;

/// How often one node may complain about sources of an object: as often as a node leaves slow sources.
const MAX_COMPLAINTS: u8 = 3;
/// The most nodes whose reports of wrong bytes are remembered.
const MAX_ACCUSERS: usize = 64;

/// The last source that a node was told to follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    source: NodeId,
    complaints: u8,
}

impl Flight {
    /// Ranks a source last until it is heard from: a node reported it as failed.
    pub fn mark_doubtful(&mut self, node: &NodeId) {
        if let Some(source) = self.sources.get_mut(node) {
            source.is_doubtful = true;
            self.rank(node);
        }
    }

    /// Whether a node or one above it is slow.
    pub fn is_behind_slow_node(&self, node: &NodeId) -> bool {
        self.get(node)
            .is_some_and(|source| source.derived.is_behind_slow_node)
    }

    /// Sets whether a node is slow. Returns whether this is a change.
    pub fn set_slow(&mut self, node: &NodeId, is_slow: bool) -> bool {
        let Some(source) = self.sources.get_mut(node) else {
            return false;
        };
        if std::mem::replace(&mut source.is_slow, is_slow) == is_slow {
            return false;
        }
        let parent = source.parent;
        self.refresh(*node);
        if let Some(parent) = parent {
            self.rank(&parent);
        }
        true
    }

    /// Handles a node's report that it received wrong bytes. Either the report is false, or a node above it corrupted
    /// them.
    ///
    /// It and the nodes below it feed no node any more, and its source is ranked last. Only the report of a second
    /// node, which did not get its bytes through the first, excludes all nodes below their common root.
    pub fn mark_wrong(&mut self, node: &NodeId) {
        let mut above = Vec::new();
        let mut root = *node;
        // A ring, which reports can create, has no root.
        for _ in 0..self.sources.len() {
            match self.get(&root).and_then(|source| source.parent) {
                Some(parent) => root = parent,
                None => break,
            }
            above.push(root);
        }
        self.exclude(*node);
        let Some(source) = above.first() else {
            return;
        };
        self.mark_doubtful(source);
        let is_through_accuser = above.iter().any(|node| self.accusers.contains(node));
        if self.accusers.len() >= MAX_ACCUSERS || is_through_accuser || !self.accusers.insert(*node)
        {
            return;
        }
        if !self.accused.insert(root) {
            self.exclude(root);
        }
    }

    /// Excludes a node and all below it.
    fn exclude(&mut self, root: NodeId) {
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

    /// Records which source a node is told to follow.
    pub(super) fn set_told(&mut self, node: NodeId, source: NodeId) {
        if self.told.len() < MAX_SOURCES || self.told.contains_key(&node) {
            let complaints = self.told.get(&node).map_or(0, |told| told.complaints);
            self.told.insert(node, Told { source, complaints });
        }
    }

    /// Whether a node may complain about a source: it was told to follow it, and has complained little so far.
    pub fn takes_complaint(&mut self, node: &NodeId, about: &NodeId) -> bool {
        let told = self.told.get_mut(node);
        let told = told.filter(|told| told.source == *about && told.complaints < MAX_COMPLAINTS);
        told.map(|told| told.complaints += 1).is_some()
    }
}
