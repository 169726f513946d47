//! Who waits for an answer about one key, in the order in which they asked.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::wire::{Seek, Verdict};
use crate::{NodeId, Time};

/// A lead that is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Awaited {
    pub lead: Option<NodeId>,
    /// Other objects come to that node meanwhile.
    pub is_busy: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub seek: Seek,
    pub node: NodeId,
    pub since: Time,
    /// When it was last told to wait.
    pub told: Option<Time>,
    /// For whom it was told to wait.
    pub awaited: Awaited,
}

impl Waiter {
    pub fn new(now: Time, node: NodeId, seek: Seek) -> Self {
        Self {
            seek,
            node,
            since: now,
            told: None,
            awaited: Awaited::default(),
        }
    }

    /// What it is told when it has waited long enough for one that can come again.
    pub fn later(&self, now: Time) -> Option<Verdict> {
        let patience = Duration::from_millis(self.seek.yields.into());
        let is_enough = !patience.is_zero() && now.since(self.since) >= patience;
        is_enough.then_some(Verdict::Later)
    }

    /// The lead that it waits for: one that was granted, or one that is held for who should lead.
    pub fn waits_for(&self, granted: Awaited) -> Awaited {
        let lead = granted.lead.or(self.seek.prefer);
        Awaited {
            lead: lead.filter(|lead| *lead != self.node),
            ..granted
        }
    }
}

/// Each node once.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_turn: BTreeMap<u64, Waiter>,
    turns: BTreeMap<NodeId, u64>,
    last: u64,
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.by_turn.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_turn.is_empty()
    }

    pub fn push(&mut self, waiter: Waiter) {
        self.remove(&waiter.node);
        self.last += 1;
        self.turns.insert(waiter.node, self.last);
        self.by_turn.insert(self.last, waiter);
    }

    pub fn get(&self, node: &NodeId) -> Option<&Waiter> {
        self.by_turn.get(self.turns.get(node)?)
    }

    pub fn remove(&mut self, node: &NodeId) -> Option<Waiter> {
        self.by_turn.remove(&self.turns.remove(node)?)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Waiter> {
        self.by_turn.values_mut()
    }

    pub fn take(&mut self) -> Vec<Waiter> {
        self.turns.clear();
        std::mem::take(&mut self.by_turn).into_values().collect()
    }
}
