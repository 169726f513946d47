//! What waiting costs the pulls of this node: when it is charged, taken back, or free ([`Ledger`](crate::ledger::Ledger)).

use std::collections::BTreeSet;
use std::time::Duration;

use super::pending::{Lead, PendingRequest};
use super::{MAX_WAIT, SourceRequests};
use crate::ledger::{GRACE, Waits};
use crate::pulls::Pulls;
use crate::speed::FIRST_STEPS_MAX;
use crate::{NodeId, Time};

/// How the wait of a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitEnd {
    /// With a source.
    Found,
    /// The request will be repeated.
    Later,
    InVain,
}

impl SourceRequests {
    /// Records the rate at which this node receives from all sources, in bytes per second.
    pub fn observe(&mut self, now: Time, intake: u64) {
        self.settle_all(now);
        self.ledger.observe(now, intake);
    }

    /// Records whether a pull of this node has begun and goes on, and what its mirror pulls from upstream.
    pub fn set_pulls(&mut self, now: Time, pulls: &Pulls) {
        self.mirror_pulls = pulls.mirror_pulls(now);
        let (has_pull, begins) = (pulls.have_begun(), pulls.mirror_begins(now));
        if (self.ledger.has_pull, self.ledger.mirror_begins) != (has_pull, begins) {
            self.settle_all(now);
            self.ledger.has_pull = has_pull;
            self.ledger.mirror_begins = begins;
            self.settle_all(now);
        }
    }

    fn settle_all(&mut self, now: Time) {
        let waiting = self.open.values().filter_map(PendingRequest::repository);
        for repository in waiting.collect::<BTreeSet<_>>() {
            self.settle(now, repository);
        }
    }

    /// Charges what a pull has lost elsewhere.
    pub fn charge(&mut self, now: Time, repository: u64, lost: Duration) {
        self.settle(now, repository);
        self.ledger.charge(now, repository, lost);
        self.settle(now, repository);
    }

    /// Charges the waiting of the requests of a pull, and updates their deadlines.
    pub(super) fn settle(&mut self, now: Time, repository: u64) {
        let Self {
            open,
            ledger,
            registries,
            ..
        } = self;
        ledger.touch(now, repository);
        let waits = |open: &&mut PendingRequest| open.repository() == Some(repository);
        for open in open.values_mut().filter(waits) {
            let free = open.lead.map_or(Duration::ZERO, |lead| {
                let registry = open.registry();
                let usual = registries.first_steps(now, registry);
                let first_steps = match lead.is_upstream_slow {
                    true => open.part_of_step(FIRST_STEPS_MAX).max(usual),
                    false => usual,
                };
                ledger.free_wait((repository, registry), first_steps, open.waited_free_before)
            });
            open.free_until = open.started.after(free);
        }
        let waiting = || {
            open.values()
                .filter(|open| open.repository() == Some(repository))
        };
        let earliest = |of: fn(&PendingRequest) -> Time| waiting().map(of).min();
        let started = earliest(|open| open.started);
        let free_until = earliest(|open| open.free_until);
        let charged = started.zip(free_until).map(|(started, free_until)| Waits {
            started,
            free_until,
        });
        let charged_since = ledger.settle(now, repository, charged);
        for open in open.values_mut().filter(waits) {
            if let Some(since) = charged_since {
                open.waited += now.since(since.max(open.free_until));
            }
            let left = ledger.left(repository, open.waited);
            let latest = open.started.after(MAX_WAIT).max(now);
            open.deadline = now.max(open.free_until).after(left).min(latest);
        }
    }

    /// Removes a request.
    pub(super) fn close(
        &mut self,
        now: Time,
        sequence: u64,
        end: WaitEnd,
    ) -> Option<PendingRequest> {
        let Some(repository) = self.open.get(&sequence)?.repository() else {
            return self.open.remove(&sequence);
        };
        self.settle(now, repository);
        let open = self.open.remove(&sequence)?;
        match end {
            WaitEnd::Found => {}
            // It gave its slot to others, from when it asked for that.
            WaitEnd::Later => {
                let waited = open.waited.min(open.requeue_after() + GRACE);
                self.ledger.refund(repository, waited);
            }
            WaitEnd::InVain => {
                let (before, waited) = (open.in_vain_before, open.waited);
                self.ledger.charge_in_vain(repository, before, waited);
            }
        }
        if open.lead.is_some() {
            let succeeded = end != WaitEnd::InVain;
            self.ledger.record_lead(repository, succeeded);
        }
        self.settle(now, repository);
        Some(open)
    }

    /// The part of a request's wait that is free if its source sends bytes: upstream would have been no faster.
    pub(super) fn refundable(&self, open: &PendingRequest) -> Duration {
        let free = match open.lead {
            Some(_) => self.ledger.first_byte(open.registry()),
            None => GRACE,
        };
        open.waited.min(free)
    }

    /// Records the leader that a request waits for. `is_upstream_slow`: see [`Lead`].
    pub(super) fn set_awaited_lead(
        &mut self,
        now: Time,
        sequence: u64,
        node: Option<NodeId>,
        is_upstream_slow: bool,
    ) {
        let Some(open) = self.open.get(&sequence) else {
            return;
        };
        let Some(repository) = open.repository() else {
            return;
        };
        let lead = node.map(|node| Lead {
            node,
            is_upstream_slow,
        });
        let known = open.lead;
        if known == lead {
            return;
        }
        self.settle(now, repository);
        if known.is_some_and(|known| Some(known.node) != node) {
            self.ledger.record_lead(repository, false);
        }
        if let Some(open) = self.open.get_mut(&sequence) {
            open.lead = lead;
        }
        self.settle(now, repository);
    }
}
