//! What the questions of a pull wait, and who is charged for it.

use std::time::Duration;

use super::open::{HEART_SILENCE, Lead, Open, Question};
use super::{GRACE, RESERVE, Seeks};
use crate::{NodeId, Time};

/// So long at most a question waits at no charge for leads that have not begun, while their nodes get other objects.
const BUSY_MOST: Duration = Duration::from_secs(15);
/// A question for which there is no time to wait: a round trip or two.
const IMPATIENCE: Duration = Duration::from_millis(250);

impl Seeks {
    /// Charges what the questions of a pull have waited, and works out how long they may yet.
    pub(super) fn meter(&mut self, now: Time, group: u64) {
        let Self { open, budgets, .. } = self;
        budgets.touch(now, group);
        // What is kept back is not waited for in vain.
        let of_group = |open: &&mut Open| open.group() == Some(group) && open.held.is_none();
        for open in open.values_mut().filter(of_group) {
            budgets.charge(group, open.metered.max(open.free_until()), now);
            open.metered = now;
        }
        let left = budgets.left(group);
        for open in open.values_mut().filter(of_group) {
            open.deadline = if open.is_patient {
                let charged_from = now.max(open.free_until());
                charged_from.after(left.saturating_sub(RESERVE))
            } else {
                open.started.after(IMPATIENCE)
            };
        }
    }

    /// The lead that a question waits for has come to nothing: that was in vain.
    fn lost_lead(&mut self, now: Time, number: u64) {
        if let Some(open) = self.open.get_mut(&number)
            && let Question::Seek(wanted) = &open.question
            && let Some(lead) = open.lead.take()
        {
            self.budgets
                .charge_lost(wanted.group, lead.from, lead.until.min(now), RESERVE);
            self.budgets.led(wanted.group, false);
        }
    }

    /// Takes a question off the list; `well` if a lead that it waited for came to something.
    pub(super) fn close(&mut self, now: Time, number: u64, well: bool) -> Option<Open> {
        let Some(group) = self.open.get(&number)?.group() else {
            return self.open.remove(&number);
        };
        self.meter(now, group);
        if !well {
            self.lost_lead(now, number);
        }
        let open = self.open.remove(&number)?;
        if !well {
            let grace = open.started.after(GRACE).min(now);
            self.budgets
                .charge_lost(group, open.started, grace, RESERVE);
        }
        if open.lead.is_some() {
            self.budgets.led(group, true);
        }
        self.meter(now, group);
        Some(open)
    }

    /// The owner says for whom a question waits.
    pub(super) fn waits_for(&mut self, now: Time, number: u64, lead: Option<NodeId>) {
        let Some(open) = self.open.get(&number) else {
            return;
        };
        let Question::Seek(wanted) = &open.question else {
            return;
        };
        if open.lead.map(|lead| lead.node) == lead {
            return;
        }
        let (group, registry) = (wanted.group, wanted.registry);
        self.meter(now, group);
        self.lost_lead(now, number);
        let credit = self.budgets.credit(group, registry);
        // Who waits for several leads, one after the other, has the credit once.
        let of_group = |open: &&Open| open.group() == Some(group) && open.held.is_none();
        let waits_since = self.open.values().filter(of_group).map(|open| open.started);
        let until = waits_since.min().unwrap_or(now).after(credit).max(now);
        if let (Some(open), Some(node)) = (self.open.get_mut(&number), lead) {
            // Upstream would not have been quicker for this node.
            let from = now;
            open.lead = Some(Lead { node, from, until });
        }
        self.meter(now, group);
    }

    /// The lead that a question waits for gets other objects meanwhile: this node would have to share its link in the same
    /// way, so waiting costs nothing for now.
    pub(super) fn spare(&mut self, now: Time, number: u64) {
        let Some(open) = self.open.get(&number) else {
            return;
        };
        let (Question::Seek(wanted), Some(lead)) = (&open.question, open.lead) else {
            return;
        };
        let group = wanted.group;
        let until = now.after(HEART_SILENCE).min(open.started.after(BUSY_MOST));
        if until <= lead.until {
            return;
        }
        self.meter(now, group);
        if let Some(open) = self.open.get_mut(&number) {
            open.lead = Some(Lead { until, ..lead });
        }
        self.meter(now, group);
    }
}
