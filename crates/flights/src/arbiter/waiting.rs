//! The nodes that wait for an answer about one object, in the order in which they asked.

use std::collections::BTreeMap;
use std::time::Duration;

use super::asker::Asker;
use super::flight::Asked;
use super::passing_on::PassedOn;
use crate::outbox::Outbox;
use crate::wire::{Message, Reply, SourceRequest};
use crate::{NodeId, Time};

/// What a node waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Awaited {
    pub leader: Option<NodeId>,
    /// Another leader has no byte either, or the registry is slow.
    pub is_upstream_slow: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub request: SourceRequest,
    pub asker: Asker,
    pub since: Time,
    /// When it was last told to wait.
    pub told_at: Option<Time>,
    /// What it was told to wait for.
    pub told: Awaited,
    pub passed_on: Option<PassedOn>,
}

impl Waiter {
    pub fn new(now: Time, asker: Asker, request: SourceRequest) -> Self {
        Self {
            request,
            asker,
            since: now,
            told_at: None,
            told: Awaited::default(),
            passed_on: None,
        }
    }

    /// The same request once more, with what its node says now.
    pub fn repeated(mut self, asker: Asker, request: SourceRequest) -> Self {
        if let Some(passed_on) = &mut self.passed_on
            && changeable(&request) != changeable(&self.request)
        {
            passed_on.asked.repeat_at_once();
        }
        Self {
            asker,
            request,
            ..self
        }
    }

    /// Its request, as it is recorded with the source that it becomes.
    pub fn asked(&self) -> Asked {
        Asked {
            number: self.request.request_number(),
            repository: Some(self.request.repository),
            via: self.asker.via,
        }
    }

    /// Returns [`Reply::Later`] once a waiter that can retry has waited long enough.
    pub fn requeue_if_due(&self, now: Time) -> Option<Reply> {
        let patience = Duration::from_millis(self.request.requeue_after_ms.into());
        let is_enough = !patience.is_zero() && now.since(self.since) >= patience;
        is_enough.then_some(Reply::Later(true))
    }

    /// Withdraws the request where it was passed on.
    pub fn withdraw(&self, out: &mut Outbox) {
        if let Some(passed_on) = &self.passed_on {
            let withdraw = Message::withdraw(self.request.key(), self.request.number);
            out.pass_on(passed_on.asked.owner, self.asker.node, withdraw);
        }
    }

    /// The leader that it waits for: the one granted, or the one that the lead is held for.
    pub fn waits_for(&self, granted: Option<NodeId>) -> Option<NodeId> {
        let passed_on = self.passed_on.as_ref();
        let elsewhere = passed_on.and_then(|passed_on| passed_on.leader);
        let lead = granted.or(elsewhere).or(self.request.preferred_leader());
        lead.filter(|lead| *lead != self.asker.node)
    }
}

/// What a node says of itself and may change while it waits, as far as an answer depends on it.
fn changeable(request: &SourceRequest) -> ([bool; 3], [bool; 3]) {
    let r = request;
    (
        [r.can_wait, r.lead_is_late, r.leader_cooldown],
        [r.is_slow, r.leads, r.is_fetcher],
    )
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
        self.remove(&waiter.asker.node);
        self.last += 1;
        self.orders.insert(waiter.asker.node, self.last);
        self.by_order.insert(self.last, waiter);
    }

    pub fn get(&self, node: &NodeId) -> Option<&Waiter> {
        self.by_order.get(self.orders.get(node)?)
    }

    pub fn get_mut(&mut self, node: &NodeId) -> Option<&mut Waiter> {
        self.by_order.get_mut(self.orders.get(node)?)
    }

    pub fn remove(&mut self, node: &NodeId) -> Option<Waiter> {
        self.by_order.remove(&self.orders.remove(node)?)
    }

    /// The waiters on whose behalf an arbiter asks.
    pub fn asked_via(&self, arbiter: &NodeId) -> Vec<NodeId> {
        let waiters = self.by_order.values();
        let via = waiters.filter(|waiter| waiter.asker.via == Some(*arbiter));
        via.map(|waiter| waiter.asker.node).collect()
    }

    pub fn take(&mut self) -> Vec<Waiter> {
        self.orders.clear();
        std::mem::take(&mut self.by_order).into_values().collect()
    }
}
