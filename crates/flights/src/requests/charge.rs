//! Charges the waiting of requests to the budget of their pull.

use std::time::Duration;

use super::pending::{HEART_SILENCE, Lead, PendingRequest, Query};
use super::{GRACE, RESERVE, SourceRequests};
use crate::{NodeId, Time};

/// Waiting for a leader that receives other objects is free for this long at most.
const BUSY_LEAD_FREE_MAX: Duration = Duration::from_secs(15);
/// The timeout of a request without budget: a round trip or two.
const NO_BUDGET_TIMEOUT: Duration = Duration::from_millis(250);

impl SourceRequests {
    /// Charges what the requests of a pull have waited, and updates their deadlines.
    pub(super) fn charge_waiting(&mut self, now: Time, repository: u64) {
        let Self { open, budgets, .. } = self;
        budgets.touch(now, repository);
        // A deferred request waits for nothing.
        let of_repository = |open: &&mut PendingRequest| {
            open.repository() == Some(repository) && open.deferred_until.is_none()
        };
        for open in open.values_mut().filter(of_repository) {
            budgets.charge(repository, open.charged_until.max(open.free_until()), now);
            open.charged_until = now;
        }
        let left = budgets.left(repository);
        for open in open.values_mut().filter(of_repository) {
            open.deadline = if open.can_wait {
                let charged_from = now.max(open.free_until());
                charged_from.after(left.saturating_sub(RESERVE))
            } else {
                open.started.after(NO_BUDGET_TIMEOUT)
            };
        }
    }

    /// Charges the waiting for a leader that failed.
    fn charge_failed_lead(&mut self, now: Time, number: u64) {
        if let Some(open) = self.open.get_mut(&number)
            && let Query::Source(request) = &open.query
            && let Some(lead) = open.lead.take()
        {
            self.budgets
                .charge_failed(request.repository, lead.from, lead.until.min(now), RESERVE);
            self.budgets.record_lead(request.repository, false);
        }
    }

    /// Removes a request. `succeeded`: the leader that it waited for, if any, succeeded.
    pub(super) fn close(
        &mut self,
        now: Time,
        number: u64,
        succeeded: bool,
    ) -> Option<PendingRequest> {
        let Some(repository) = self.open.get(&number)?.repository() else {
            return self.open.remove(&number);
        };
        self.charge_waiting(now, repository);
        if !succeeded {
            self.charge_failed_lead(now, number);
        }
        let open = self.open.remove(&number)?;
        if !succeeded {
            let grace = open.started.after(GRACE).min(now);
            self.budgets
                .charge_failed(repository, open.started, grace, RESERVE);
        }
        if open.lead.is_some() {
            self.budgets.record_lead(repository, true);
        }
        self.charge_waiting(now, repository);
        Some(open)
    }

    /// Records the leader that a request waits for.
    pub(super) fn set_awaited_lead(&mut self, now: Time, number: u64, lead: Option<NodeId>) {
        let Some(open) = self.open.get(&number) else {
            return;
        };
        let Query::Source(request) = &open.query else {
            return;
        };
        if open.lead.map(|lead| lead.node) == lead {
            return;
        }
        let (repository, registry) = (request.repository, request.registry);
        self.charge_waiting(now, repository);
        self.charge_failed_lead(now, number);
        let free_wait = self.budgets.free_wait(repository, registry);
        // The free time is granted once, even if a request waits for several leaders in turn.
        let of_repository = |open: &&PendingRequest| {
            open.repository() == Some(repository) && open.deferred_until.is_none()
        };
        let waits_since = self
            .open
            .values()
            .filter(of_repository)
            .map(|open| open.started);
        let until = waits_since.min().unwrap_or(now).after(free_wait).max(now);
        if let (Some(open), Some(node)) = (self.open.get_mut(&number), lead) {
            // Upstream would have been no faster for this node.
            let from = now;
            open.lead = Some(Lead { node, from, until });
        }
        self.charge_waiting(now, repository);
    }

    /// Extends the free time: the leader receives other objects meanwhile. This node would have to share its link in
    /// the same way.
    pub(super) fn extend_free_wait(&mut self, now: Time, number: u64) {
        let Some(open) = self.open.get(&number) else {
            return;
        };
        let (Query::Source(request), Some(lead)) = (&open.query, open.lead) else {
            return;
        };
        let repository = request.repository;
        let until = now
            .after(HEART_SILENCE)
            .min(open.started.after(BUSY_LEAD_FREE_MAX));
        if until <= lead.until {
            return;
        }
        self.charge_waiting(now, repository);
        if let Some(open) = self.open.get_mut(&number) {
            open.lead = Some(Lead { until, ..lead });
        }
        self.charge_waiting(now, repository);
    }
}
