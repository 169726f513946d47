//! Who is of no use, who is slow, and whose bytes are wrong.

use super::{Asked, Flight, Source, State};
use crate::{NodeId, Time};

/// Who has outrun so many is the slow one itself.
const MOST_OUTRUN: u8 = 4;

/// What becomes of who says that whoever leads is far too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// It leads as well.
    Leads,
    /// Nobody else has said so.
    Alone,
    /// Another one leads as well, or somebody has all of it.
    Unfounded,
}

impl Flight {
    /// Somebody says that a node is of no use.
    pub fn doubt(&mut self, node: &NodeId) {
        if let Some(source) = self.sources.get_mut(node) {
            source.is_doubted = true;
            self.rank(node);
        }
    }

    /// Whether a node is slow, or gets its bytes by way of one that is.
    pub fn is_held_up(&self, node: &NodeId) -> bool {
        self.get(node).is_some_and(|source| source.is_held_up)
    }

    /// A node says, or others do, whether it is slow.
    pub fn slow(&mut self, node: &NodeId, is_slow: bool) {
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

    /// A node says that one of those it feeds stays behind. Returns who may be the slow one.
    pub fn outrun(&mut self, by: &NodeId, order: u32) -> Option<NodeId> {
        let children = self.children.get(by)?;
        // One that is known as slow may have got others to feed before it was.
        let feeds = |child: &NodeId| {
            let mut fed = self.children.get(child).into_iter().flatten();
            fed.any(|fed| self.get(fed).is_some_and(|fed| !fed.is_slow))
        };
        let is_meant = |child: &&NodeId| {
            let is_it = |c: &Source| c.order == order && (!c.is_slow || feeds(child));
            self.get(child).is_some_and(is_it)
        };
        let child = *children.iter().find(is_meant)?;
        let outrun_by = &mut self.sources.get_mut(&child)?.outrun_by;
        let is_news = outrun_by.replace(*by) != Some(*by);
        let source = self.sources.get_mut(by)?;
        source.outran = source.outran.saturating_add(u8::from(is_news));
        let is_itself = source.outran >= MOST_OUTRUN && source.parent.is_some();
        Some(if is_itself { *by } else { child })
    }

    /// Somebody says that it gets far too little by way of `slow`, and could lead as well. It does if another one has said
    /// so before, or if there is no other: one alone may be slow itself.
    pub fn complain(&mut self, now: Time, slow: NodeId, node: NodeId, asked: Asked) -> Complaint {
        if slow == node || !self.is_led_by(&slow) {
            return Complaint::Unfounded;
        }
        let is_second = *self.complained.get_or_insert(node) != node;
        let is_other = |other: &NodeId| *other != slow && *other != node;
        let has_others = !self.waiting.is_empty() || self.sources.keys().any(is_other);
        if has_others && !is_second {
            return Complaint::Alone;
        }
        self.slow(&slow, true);
        // It cannot be called back; the faster one wins.
        self.lead(now, node, State::Granted, asked);
        self.slow(&node, false);
        Complaint::Leads
    }

    /// Whether all there is comes from upstream by way of this one. Where somebody has all of it, upstream is not needed,
    /// and need not be there.
    fn is_led_by(&self, node: &NodeId) -> bool {
        let is_root = |source: &&Source| source.state.is_lead() || source.state == State::Complete;
        let mut roots = self.sources.values().filter(is_root);
        let is_it = |root: &Source| root.node == *node && root.state.is_lead();
        roots.next().is_some_and(is_it) && roots.next().is_none()
    }

    /// What a node got was wrong. As it does not show who spoilt it, nobody gets anything from any node that has its bytes
    /// from the same root.
    pub fn condemn(&mut self, node: &NodeId) {
        let mut root = *node;
        // A ring that reports have closed has no root.
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
