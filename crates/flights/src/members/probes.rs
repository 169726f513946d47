//! The probes in progress: this node's own, and those on behalf of others.

use std::collections::VecDeque;

use super::member::NodeId;
use super::timing::{DIRECT_WAIT, PROBE_WAIT};
use crate::Time;

/// The most own probes at once: one each period, and those of suspected members.
const MAX_PROBES: usize = 16;
/// The most probes on behalf of others at once.
const MAX_RELAYS: usize = 64;

#[derive(Debug)]
struct Probe {
    target: NodeId,
    incarnation: u32,
    number: u32,
    /// When other members are asked to help. `None`: they were.
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

/// What to do about a probe without an answer.
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
    /// Starts a probe and returns its number. `None`: the target is being probed already, or there are too many probes.
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

    /// Starts a probe on behalf of another node and returns its number. `None`: there are too many.
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

    /// Handles an answer. If the probe was on behalf of another node, returns that node and its number.
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

    /// Records the members that help with a probe: their answers count as the target's.
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

    /// Drops all own probes: this node could not hear their answers.
    pub(super) fn void(&mut self) {
        self.running.clear();
    }
}
