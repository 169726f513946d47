//! The mode in which a node condition shows whether the mirror is ready.

use std::time::{Duration, SystemTime};

use super::{Readiness, UNREADY_GRACE};
use crate::Mode;
use crate::node::{Condition, Node, Patch};

impl Readiness {
    /// Withdraws this process's condition when it ends. `None`: it has set none, or another process has set one since.
    pub fn withdraw(&self, node: &Node, wall: SystemTime) -> Option<Patch> {
        let said = node.condition()?;
        let is_ours = self.config.mode == Mode::Condition && *said == self.passed();
        is_ours.then(|| {
            let stopped = Condition {
                status: "False".into(),
                reason: "MirrorStopped".into(),
                message: "The mirror on this node has stopped.".into(),
            };
            node.with_condition(&stopped, &text(wall))
        })
    }

    /// The condition that the node should have, if it has another one.
    pub(super) fn condition_patch(
        &self,
        node: &Node,
        now: Duration,
        wall: SystemTime,
    ) -> Option<Patch> {
        let said = node.condition();
        let wanted = if self.proven {
            self.passed()
        } else {
            let started = self.waiting.as_ref().map_or(now, |waiting| waiting.since);
            if said.is_some_and(Condition::is_true)
                && now - started < UNREADY_GRACE
                && !self.was_proven(said)
            {
                return None;
            }
            self.not_ready()
        };
        let is_said = said.is_some_and(|said| {
            // A new process sets its ready condition once, so that its predecessor does not withdraw it. From then on
            // the instance does not matter, nor does the changing message of an unready mirror.
            let is_new = wanted.is_true() && !self.has_spoken && said.message != wanted.message;
            said.status == wanted.status && said.reason == wanted.reason && !is_new
        });
        (!is_said).then(|| node.with_condition(&wanted, &text(wall)))
    }

    /// Whether the condition was set by this process.
    fn was_proven(&self, said: Option<&Condition>) -> bool {
        said == Some(&self.passed())
    }

    pub(super) fn passed(&self) -> Condition {
        Condition {
            status: "True".into(),
            reason: "TrialPassed".into(),
            message: format!(
                "containerd pulls through the mirror on this node (instance {}).",
                self.instance
            ),
        }
    }

    fn not_ready(&self) -> Condition {
        let failed = self.mirror_waits_for.is_none() && self.trial_failure.is_some();
        Condition {
            status: "False".into(),
            reason: if failed {
                "TrialFailed"
            } else {
                "MirrorNotReady"
            }
            .into(),
            message: self.cause(),
        }
    }
}

fn text(wall: SystemTime) -> String {
    humantime::format_rfc3339_seconds(wall).to_string()
}
