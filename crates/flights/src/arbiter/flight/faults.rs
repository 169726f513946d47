//! Sources that fail, are slow, or have wrong bytes.

use super::{Flight, State};
use crate::NodeId;

/// The most nodes that lead at once. A slow lead cannot be called back.
const MAX_LEADS: u32 = 3;

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
            .is_some_and(|source| source.derived.is_behind_slow_node)
    }

    /// Sets whether a node is slow. Returns whether that is news.
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

    /// Whether a node that is not slow should lead beside the slow leaders: nobody has the complete object, and there are
    /// few leads.
    pub fn allows_another_lead(&self) -> bool {
        let mut leads = 0;
        for source in self.sources.values() {
            match source.state {
                State::Complete => return false,
                State::Granted | State::Begun => leads += 1,
                _ => {}
            }
        }
        (1..MAX_LEADS).contains(&leads)
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
