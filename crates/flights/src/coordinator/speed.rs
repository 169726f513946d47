//! Tests this node's link, and compares what registries give.

use std::time::Duration;

use super::{Coordinator, Event};
use crate::Time;
use crate::outbox::Context;
use crate::speed::{Condition, LeadRate, LeadSample, LinkTest, Received};
use crate::view::View;

impl Coordinator {
    /// See [`crate::Node::observe`].
    pub fn observe(&mut self, now: Time, received: &Received, view: &impl View) {
        let followed = self.pulls.followed_registries();
        let rates = followed.map(|registry| self.requests.registries.get(now, registry).current());
        let registry_rate = rates.max().unwrap_or(0);
        if self.link.observe(now, received.rate, registry_rate) {
            self.events.push(Event::TestLink);
        }
        self.requests.observe(now, received.rate);
        let requests = &mut self.requests;
        requests.registries.forget_leads_except(&received.led_bytes);
        let condition = self.link.condition(now);
        let bandwidth = self.link.bandwidth();
        let bandwidth = bandwidth.filter(|_| condition == Condition::Starved);
        // The link of a slow node is the reason.
        let led = received
            .led_bytes
            .iter()
            .filter(|_| condition != Condition::Slow);
        for (registry, bytes) in led {
            let sample = LeadSample {
                bytes: *bytes,
                intake: received.rate,
                bandwidth,
                is_second: self.pulls.leads_beside_another(*registry),
                shares_uplink: self.pulls.lead_through_mirror(*registry)
                    && self
                        .pulls
                        .followed_registries()
                        .any(|other| other == *registry)
                    && requests.fills_link(now, *registry),
            };
            let judged = requests.registries.judge(now, *registry, sample);
            let LeadRate::BelowExpected { repeated } = judged else {
                continue;
            };
            // A single object shows what the registry gives another node.
            let most = if repeated { usize::MAX } else { 1 };
            if requests.registries.is_path_slow(now, *registry) {
                let cx = &mut Context::new(now, view, &mut self.out);
                requests.path_is_slow(*registry, cx);
            }
            for key in self.pulls.led_from(*registry).into_iter().take(most) {
                self.events.push(Event::LeaderIsSlow(key));
                let cx = &mut Context::new(now, view, &mut self.out);
                self.pulls.report_slow(Some(key), cx);
            }
        }
        self.check_speed(now, view);
        self.deliver_own(now, view);
    }

    /// See [`crate::Node::charge`].
    pub fn charge(&mut self, now: Time, repository: u64, lost: Duration) {
        self.requests.charge(now, repository, lost);
    }

    /// See [`crate::Node::lost`].
    pub fn lost(&self, repository: u64) -> Duration {
        self.requests.ledger.lost(repository)
    }

    /// See [`crate::Node::link_tested`].
    pub fn link_tested(&mut self, now: Time, test: LinkTest, view: &impl View) {
        self.link.tested(now, test);
        self.check_speed(now, view);
        self.deliver_own(now, view);
    }

    /// See [`crate::Node::bandwidth`].
    pub fn bandwidth(&self) -> Option<u64> {
        self.link.bandwidth()
    }

    /// See [`crate::Node::take_events`].
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Begins the first test, and acts on a new condition.
    pub(crate) fn check_speed(&mut self, now: Time, view: &impl View) {
        if self.link.tick(now, view.members().saturating_sub(1)) {
            self.events.push(Event::TestLink);
        }
        let state = self.link.state(now);
        let before = std::mem::replace(&mut self.link_state, state);
        if before == state {
            return;
        }
        self.events.push(Event::Link(state));
        let was_slow = before.condition == Condition::Slow;
        self.requests.bandwidth = state.bandwidth;
        self.requests.is_slow = state.condition == Condition::Slow;
        if self.requests.is_slow && !was_slow {
            let cx = &mut Context::new(now, view, &mut self.out);
            self.pulls.report_slow(None, cx);
        }
    }
}
