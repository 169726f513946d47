//! Joins a cluster by seeds.

use super::Members;
use super::member::NodeId;
use super::timing::JOIN_PATIENCE;
use crate::Time;

/// The state of joining.
#[derive(Debug, Default)]
pub(super) struct Joining {
    seeds: Vec<NodeId>,
    next_seed: usize,
    /// The first list has not arrived yet.
    pub(super) is_waiting: bool,
    /// Until then, seeds are asked before other members.
    end: Time,
}

impl Members {
    /// Joins the cluster of `seeds`: nodes that the transport can reach already.
    ///
    /// The seeds are asked in turn until one sends its list. Seeds that are not on the list are asked too; otherwise
    /// nodes that all start together would form clusters around their seeds. Without seeds this node is a cluster of
    /// its own until another one joins it. May be called again with other seeds; known members stay.
    pub fn join(&mut self, now: Time, seeds: impl IntoIterator<Item = NodeId>) {
        let me = self.me().id;
        let mut seeds: Vec<_> = seeds.into_iter().filter(|seed| *seed != me).collect();
        self.random.shuffle(&mut seeds);
        self.joining = Joining {
            is_waiting: !seeds.is_empty() && self.len() == 1,
            seeds,
            next_seed: 0,
            end: now.after(JOIN_PATIENCE),
        };
        self.sync(now);
    }

    /// The seed to ask now, while this node joins.
    pub(super) fn seed_to_join(&mut self, now: Time) -> Option<NodeId> {
        if self.joining.end <= now {
            self.joining.is_waiting = false;
            return None;
        }
        self.next_seed()
    }

    /// The next seed in turn. Once this node has joined, only seeds that are not members.
    pub(super) fn next_seed(&mut self) -> Option<NodeId> {
        let count = self.joining.seeds.len();
        for _ in 0..count {
            let seed = *self.joining.seeds.get(self.joining.next_seed % count)?;
            self.joining.next_seed = self.joining.next_seed.wrapping_add(1);
            if self.joining.is_waiting || self.get(&seed).is_none() {
                return Some(seed);
            }
        }
        None
    }

    /// Ends the wait for the first list if this node knows all `members` that a seed knows.
    pub(super) fn advance_joining(&mut self, now: Time, from: NodeId, members: u32) {
        let is_complete = self.len() >= members as usize && self.joining.seeds.contains(&from);
        if self.joining.is_waiting && is_complete {
            self.joining.is_waiting = false;
            // The next seed that is no member yet is asked at once.
            self.sync(now);
        }
    }
}
