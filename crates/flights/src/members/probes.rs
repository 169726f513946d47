//! This node's probes in progress.

use super::member::NodeId;
use super::timing::{DIRECT_WAIT, INDIRECT_WAIT};
use crate::Time;

/// The most probes at once: one each period, and those of members that others suspect.
const MAX_PROBES: usize = 32;

#[derive(Debug)]
struct Probe {
    target: NodeId,
    incarnation: u32,
    number: u32,
    /// The members that were asked to help. `None`: none yet.
    helpers: Option<Vec<NodeId>>,
    deadline: Time,
}

/// What to do about a probe without an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Help {
        target: NodeId,
        incarnation: u32,
        number: u32,
    },
    Failed {
        target: NodeId,
        incarnation: u32,
    },
}

#[derive(Debug, Default)]
pub(super) struct Probes {
    running: Vec<Probe>,
    last: u32,
}

impl Probes {
    fn has_room(&self) -> bool {
        self.running.len() < MAX_PROBES
    }

    /// Whether there is room for a probe that others have caused: half of the room is reserved for the usual probes.
    pub(super) fn has_room_for_doubt(&self) -> bool {
        self.running.len() < MAX_PROBES / 2
    }

    /// Starts a probe and returns its number. `None`: the target is being probed already, or there are too many probes.
    pub(super) fn begin(&mut self, now: Time, target: NodeId, incarnation: u32) -> Option<u32> {
        let is_probed = self.running.iter().any(|probe| probe.target == target);
        if is_probed || !self.has_room() {
            return None;
        }
        self.last = self.last.wrapping_add(1);
        self.running.push(Probe {
            target,
            incarnation,
            number: self.last,
            helpers: None,
            deadline: now.after(DIRECT_WAIT),
        });
        Some(self.last)
    }

    /// Ends a probe: `target` has answered directly, or a helper (`from`) says so. Returns whether there was such a
    /// probe.
    pub(super) fn answered(&mut self, from: NodeId, target: NodeId, number: u32) -> bool {
        let before = self.running.len();
        self.running.retain(|probe| {
            let helps = || probe.helpers.iter().flatten().any(|helper| *helper == from);
            let is_credible = from == target || helps();
            !(probe.number == number && probe.target == target && is_credible)
        });
        self.running.len() < before
    }

    /// Records the members that help with a probe.
    pub(super) fn helped_by(&mut self, number: u32, helpers: Vec<NodeId>) {
        if let Some(probe) = self.running.iter_mut().find(|probe| probe.number == number) {
            probe.helpers = Some(helpers);
        }
    }

    /// The next probe without an answer that is due.
    pub(super) fn due(&mut self, now: Time) -> Option<Due> {
        let is_due = |probe: &Probe| probe.deadline <= now;
        let at = self.running.iter().position(is_due)?;
        let probe = self.running.get_mut(at)?;
        let (target, number, incarnation) = (probe.target, probe.number, probe.incarnation);
        if probe.helpers.is_none() {
            probe.helpers = Some(Vec::new());
            probe.deadline = now.after(INDIRECT_WAIT);
            return Some(Due::Help {
                target,
                incarnation,
                number,
            });
        }
        self.running.remove(at);
        Some(Due::Failed {
            target,
            incarnation,
        })
    }

    /// The number of the last probe.
    #[cfg(test)]
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.running.iter().map(|probe| probe.deadline).min()
    }

    /// Drops all probes: this node could not receive their answers.
    pub(super) fn clear(&mut self) {
        self.running.clear();
    }
}
