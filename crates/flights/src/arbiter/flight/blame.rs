//! Who is of no use, who is slow, and whose bytes are wrong.

use super::{Asked, Flight, State};
use crate::{NodeId, Time};

/// Who has outrun so many is the slow one itself.
const MOST_OUTRUN: u8 = 4;

impl Flight {
    /// Somebody says that a node is of no use.
    pub fn doubt(&mut self, node: &NodeId) {
        if let Some(source) = self.sources.get_mut(node) {
            source.is_doubted = true;
            self.rank(node);
        }
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
        let is_meant = |child: &&NodeId| {
            self.get(child)
                .is_some_and(|c| c.order == order && !c.is_slow)
        };
        let child = *children.iter().find(is_meant)?;
        let outrun_by = &mut self.sources.get_mut(&child)?.outrun_by;
        let is_news = outrun_by.replace(*by) != Some(*by);
        let source = self.sources.get_mut(by)?;
        source.outran = source.outran.saturating_add(u8::from(is_news));
        let is_itself = source.outran >= MOST_OUTRUN && source.parent.is_some();
        Some(if is_itself { *by } else { child })
    }

    /// Has a node lead as well, because those who do are slow, if none does so yet: whoever gets its bytes by way of them
    /// does better elsewhere. They cannot be called back; the faster one wins.
    pub fn double(&mut self, now: Time, node: NodeId, asked: Asked) -> bool {
        if self.is_doubled || self.feeds_nobody() {
            return false;
        }
        self.is_doubled = true;
        let leads = self.sources.values().filter(|s| s.state == State::Begun);
        for lead in leads.map(|source| source.node).collect::<Vec<_>>() {
            self.slow(&lead, true);
        }
        self.lead(now, node, State::Begun, asked);
        self.slow(&node, false);
        true
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
