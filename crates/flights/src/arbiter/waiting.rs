//! The nodes that wait for an answer about one object, in the order in which they asked.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::wire::{Reply, SourceRequest};
use crate::{NodeId, Time};

#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub request: SourceRequest,
    pub node: NodeId,
    pub since: Time,
    /// When it was last told to wait.
    pub announced: Option<Time>,
    /// The leader that it was told about.
    pub awaited: Option<NodeId>,
}

impl Waiter {
    pub fn new(now: Time, node: NodeId, request: SourceRequest) -> Self {
        Self {
            request,
            node,
            since: now,
            announced: None,
            awaited: None,
        }
    }

    /// Returns [`Reply::Later`] once a waiter that can retry has waited long enough.
    pub fn requeue_if_due(&self, now: Time) -> Option<Reply> {
        let patience = Duration::from_millis(self.request.requeue_after_ms.into());
        let is_enough = !patience.is_zero() && now.since(self.since) >= patience;
        is_enough.then_some(Reply::Later(true))
    }

    /// The leader that it waits for: the one granted, or the one that the lead is held for.
    pub fn waits_for(&self, granted: Option<NodeId>) -> Option<NodeId> {
        let lead = granted.or(self.request.preferred_leader());
        lead.filter(|lead| *lead != self.node)
    }
}

/// The waiting nodes, each once.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_order: BTreeMap<u64, Waiter>,
    orders: BTreeMap<NodeId, u64>,
    last: u64,
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.by_order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_order.is_empty()
    }

    pub fn push(&mut self, waiter: Waiter) {
        self.remove(&waiter.node);
        self.last += 1;
        self.orders.insert(waiter.node, self.last);
        self.by_order.insert(self.last, waiter);
    }

    pub fn get(&self, node: &NodeId) -> Option<&Waiter> {
        self.by_order.get(self.orders.get(node)?)
    }

    pub fn remove(&mut self, node: &NodeId) -> Option<Waiter> {
        self.by_order.remove(&self.orders.remove(node)?)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Waiter> {
        self.by_order.values_mut()
    }

    pub fn take(&mut self) -> Vec<Waiter> {
        self.orders.clear();
        std::mem::take(&mut self.by_order).into_values().collect()
    }
}
