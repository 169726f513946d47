//! Derives which sources receive bytes from a root, and their rank.

use crate::wire::SourceRequest;
use crate::{Key, NodeId};

use super::source::{Derived, Rank};
use super::{Flight, Source, State};
use crate::arbiter::tree::{self, TreeShape};

impl Flight {
    /// Recomputes what follows from the nodes above, for a node and all below it.
    pub(super) fn refresh(&mut self, node: NodeId) {
        let mut stale = vec![node];
        while let Some(node) = stale.pop() {
            let Some(source) = self.sources.get(&node) else {
                continue;
            };
            let derived = self.derive(source);
            let was = source.derived;
            if let Some(source) = self.sources.get_mut(&node) {
                source.derived = derived;
            }
            self.rank(&node);
            if derived != was {
                stale.extend(self.children.get(&node).into_iter().flatten());
            }
        }
    }

    fn derive(&self, source: &Source) -> Derived {
        let above = source.parent.map(|parent| self.sources.get(&parent));
        let above = above.map(|parent| parent.map(|parent| parent.derived));
        match above {
            Some(Some(parent)) if parent.is_fed && !source.is_wrong => Derived {
                depth: parent.depth.saturating_add(1),
                is_behind_slow_node: source.is_slow || parent.is_behind_slow_node,
                ..parent
            },
            // In a ring no node is fed, so `refresh` ends.
            Some(_) => Derived {
                depth: source.derived.depth,
                is_behind_slow_node: source.is_slow,
                ..Derived::default()
            },
            None => Derived {
                is_fed: !matches!(
                    source.state,
                    State::Granted | State::LeadsForAll | State::Following
                ) && !source.is_wrong,
                root_is_complete: source.state == State::Complete,
                depth: 0,
                is_behind_slow_node: source.is_slow,
            },
        }
    }

    pub(super) fn rank(&mut self, node: &NodeId) {
        let children = self.children(node);
        let Some(source) = self.sources.get_mut(node) else {
            return;
        };
        let is_complete = source.state == State::Complete;
        let derived = source.derived;
        let goes_on = derived.root_is_complete && !is_complete;
        let cost = self.shape.cost(node, derived.depth, children, goes_on);
        // The oldest source probably has most bytes. Among complete holders the choice is random.
        let tie_break = if is_complete {
            tree::tie_break(node, self.epoch)
        } else {
            u64::from(source.order)
        };
        let rank = derived.is_fed.then_some(Rank {
            is_behind_slow_node: derived.is_behind_slow_node,
            is_doubtful: source.is_doubtful,
            cost,
            tie_break,
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

    /// The best source for `asker`, which must be detached: then no node below it is fed, and no ring can close.
    ///
    /// Busy sources come after all that are neither slow nor doubtful, and a source that was too slow for `asker` after
    /// these.
    pub fn best_source(&self, asker: &NodeId, request: &SourceRequest) -> Option<NodeId> {
        let slow_source = request.slow_source();
        let usable = |(_, node): &&(Rank, NodeId)| {
            node != asker && Some(*node) != slow_source && !has_failed(node, request)
        };
        let is_poor = |(rank, _): &&(Rank, NodeId)| rank.is_behind_slow_node && !request.is_slow;
        let is_busy = |node: &NodeId| request.busy_sources().any(|busy| busy == *node);
        // Slow nodes feed each other; to any other node they would be a burden. Those that have just become slow turn all
        // followers away.
        let slow = self.ranked.iter().rev();
        let slow = slow.take_while(|(rank, _)| rank.is_behind_slow_node && request.is_slow);
        let is_certain = |(rank, _): &&(Rank, NodeId)| !rank.is_doubtful;
        let slow = slow.filter(is_certain).filter(usable).last();
        let idle = |source: &&(Rank, NodeId)| usable(source) && !is_busy(&source.1);
        let is_good = |best: &&(Rank, NodeId)| !is_poor(best) && !best.0.is_doubtful;
        let idle = || self.ranked.iter().find(idle).filter(is_good);
        let best = slow
            .or_else(idle)
            .or_else(|| self.ranked.iter().find(usable));
        let is_fed = |node: &NodeId| self.get(node).is_some_and(|source| source.derived.is_fed);
        let left = slow_source.filter(|slow| is_fed(slow) && !has_failed(slow, request));
        let good = best.filter(|best| !is_poor(best));
        let node = |(_, node): &(Rank, NodeId)| *node;
        good.map(node).or(left).or_else(|| best.map(node))
    }

    /// Whether another node has the complete object and has not failed `asker`.
    pub fn has_holder_for(&self, asker: &NodeId, request: &SourceRequest) -> bool {
        self.sources.values().any(|source| {
            source.state == State::Complete
                && source.node != *asker
                && !has_failed(&source.node, request)
        })
    }

    /// The tree that this object takes, recomputed if size or members have changed.
    pub fn shape(&mut self, key: &Key, members: usize) -> TreeShape {
        let shape = TreeShape::new(key, self.size, self.concurrent_objects, members);
        if shape != self.shape {
            self.shape = shape;
            for node in self.sources.keys().copied().collect::<Vec<_>>() {
                self.rank(&node);
            }
        }
        shape
    }
}

fn has_failed(node: &NodeId, request: &SourceRequest) -> bool {
    request.failed_sources().any(|failed| failed == *node)
}
