//! Probes under way, and those made for others.

use std::collections::VecDeque;

use super::member::NodeId;
use super::pace::{DIRECT_WAIT, PROBE_WAIT};
use crate::Time;

/// Probes under way at once at most: one a period, and those of members in doubt.
const MAX_PROBES: usize = 16;
/// Probes made for others at once at most; more are not made.
const MAX_RELAYS: usize = 64;

#[derive(Debug)]
struct Probe {
    target: NodeId,
    incarnation: u32,
    number: u32,
    /// When others are asked to help; none once they were.
    ask_at: Option<Time>,
    helpers: Vec<NodeId>,
    until: Time,
}

#[derive(Debug)]
struct Relay {
    number: u32,
    target: NodeId,
    origin: NodeId,
    origin_number: u32,
    until: Time,
}

/// What a probe that was not answered needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Help { target: NodeId, number: u32 },
    Failed { target: NodeId, incarnation: u32 },
}

#[derive(Debug, Default)]
pub(super) struct Probes {
    running: Vec<Probe>,
    relays: VecDeque<Relay>,
    last: u32,
}

impl Probes {
    /// Begins a probe and returns its number, unless the target is being probed or too many are.
    pub(super) fn begin(&mut self, now: Time, target: NodeId, incarnation: u32) -> Option<u32> {
        let known = self.running.iter().any(|probe| probe.target == target);
        if known || self.running.len() >= MAX_PROBES {
            return None;
        }
        self.last = self.last.wrapping_add(1);
        self.running.push(Probe {
            target,
            incarnation,
            number: self.last,
            ask_at: Some(now.after(DIRECT_WAIT)),
            helpers: Vec::new(),
            until: now.after(PROBE_WAIT),
        });
        Some(self.last)
    }

    /// Begins a probe for somebody else and returns its number, unless too many are under way.
    pub(super) fn relay(
        &mut self,
        now: Time,
        target: NodeId,
        origin: NodeId,
        origin_number: u32,
    ) -> Option<u32> {
        while self.relays.front().is_some_and(|relay| relay.until <= now) {
            self.relays.pop_front();
        }
        if self.relays.len() >= MAX_RELAYS {
            return None;
        }
        self.last = self.last.wrapping_add(1);
        let until = now.after(PROBE_WAIT);
        self.relays.push_back(Relay {
            number: self.last,
            target,
            origin,
            origin_number,
            until,
        });
        Some(self.last)
    }

    /// Takes an answer. Returns to whom and under which number it is to be passed on, if the probe was another's.
    pub(super) fn answered(&mut self, from: NodeId, number: u32) -> Option<(NodeId, u32)> {
        self.running.retain(|probe| {
            let from_it = probe.target == from || probe.helpers.contains(&from);
            !(probe.number == number && from_it)
        });
        let is_it = |relay: &Relay| relay.number == number && relay.target == from;
        let relay = self
            .relays
            .iter()
            .position(is_it)
            .and_then(|at| self.relays.remove(at))?;
        Some((relay.origin, relay.origin_number))
    }

    /// The members who were asked to help with a probe: their answers count as its target's.
    pub(super) fn helped_by(&mut self, number: u32, helpers: &[NodeId]) {
        if let Some(probe) = self.running.iter_mut().find(|probe| probe.number == number) {
            probe.helpers = helpers.to_vec();
        }
    }

    pub(super) fn due(&mut self, now: Time) -> Option<Due> {
        if let Some(at) = self.running.iter().position(|probe| probe.until <= now) {
            let Probe {
                target,
                incarnation,
                ..
            } = self.running.remove(at);
            return Some(Due::Failed {
                target,
                incarnation,
            });
        }
        let late = |probe: &&mut Probe| probe.ask_at.is_some_and(|at| at <= now);
        let probe = self.running.iter_mut().find(late)?;
        probe.ask_at = None;
        Some(Due::Help {
            target: probe.target,
            number: probe.number,
        })
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.running
            .iter()
            .map(|probe| probe.ask_at.unwrap_or(probe.until))
            .min()
    }

    /// Drops the probes under way: this node did not hear their answers.
    pub(super) fn void(&mut self) {
        self.running.clear();
    }
}
