//! The decisions of node readiness, without I/O: the next step, given the node object, the mirror's readiness, the
//! results of trials and the time.
//!
//! [`Readiness::next`] returns a [`Step`]; the caller executes it and reports the result. Times are counted from the
//! start of the process.

mod condition;
mod retry;
mod step;

use std::time::{Duration, SystemTime};

use crate::api::ApiError;
use crate::node::{Node, Patch};
use crate::{Config, Mode};
use retry::Retry;
pub(crate) use step::{State, Step};

/// The interval between checks of the mirror while they matter.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a proven mirror may be unready, for example while containerd restarts, before the condition shows it. The
/// condition of an earlier process is kept as long after a start.
const UNREADY_GRACE: Duration = Duration::from_secs(60);
/// The shortest and the longest wait after a failed trial.
const TRIAL_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The waits after a request without an answer, or with an error.
const API_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The waits after a patch of a node that another client has changed meanwhile.
const CONFLICT_RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// The wait after a forbidden request: the operator must change a role first.
const FORBIDDEN_RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60));

#[derive(Debug)]
pub(crate) struct Readiness {
    config: Config,
    /// Distinguishes this process from another mirror on the same node, as during an update.
    instance: String,
    poll_every: Duration,
    node: Option<Node>,
    next_poll: Duration,
    exact: bool,
    reads: Retry,
    writes: Retry,
    trials: Retry,
    /// Whether a trial has passed, and the mirror has not been unready for long since then.
    proven: bool,
    /// Whether this process has set the condition to true.
    has_spoken: bool,
    waiting: Option<Waiting>,
    /// What the mirror itself waits for.
    mirror_waits_for: Option<String>,
    unready_since: Option<Duration>,
    trial_failure: Option<String>,
    report: Option<String>,
}

/// The node waits for the mirror.
#[derive(Debug)]
struct Waiting {
    since: Duration,
    timed_out: bool,
}

impl Readiness {
    pub fn new(config: Config, instance: String, poll_every: Duration) -> Self {
        Self {
            config,
            instance,
            poll_every,
            node: None,
            next_poll: Duration::ZERO,
            exact: false,
            reads: Retry::default(),
            writes: Retry::default(),
            trials: Retry::default(),
            proven: false,
            has_spoken: false,
            waiting: None,
            mirror_waits_for: None,
            unready_since: None,
            trial_failure: None,
            report: None,
        }
    }

    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Decides what to do next. `mirror_waits_for`: `None` if the mirror is ready.
    pub fn next(
        &mut self,
        now: Duration,
        wall: SystemTime,
        mirror_waits_for: Option<String>,
    ) -> Step {
        self.look_at_mirror(now, mirror_waits_for);
        if self.reads.is_due(now) && (self.node.is_none() || now >= self.next_poll) {
            return Step::Read { exact: self.exact };
        }
        let Some(node) = &self.node else {
            return Step::WaitUntil(self.reads.at());
        };
        let patch = match self.config.mode {
            Mode::Taint => self.taint_patch(node),
            Mode::Condition => self.condition_patch(node, now, wall),
        };
        let is_patch_pending = patch.is_some();
        if self.writes.is_due(now) {
            if let Some(patch) = patch {
                return Step::Patch(patch);
            }
            if let Some(message) = self.report.take() {
                return Step::Report(message);
            }
        }
        let can_try = self.waiting.is_some() && !self.proven && self.mirror_waits_for.is_none();
        if can_try && self.trials.is_due(now) {
            return Step::Trial;
        }
        let write = (is_patch_pending || self.report.is_some()).then(|| self.writes.at());
        let trial = can_try.then(|| self.trials.at());
        let follows_mirror = self.waiting.is_some() || self.config.mode == Mode::Condition;
        let look = follows_mirror.then(|| now + LOOK_EVERY);
        let times = [
            Some(self.next_poll.max(self.reads.at())),
            write,
            trial,
            look,
        ];
        Step::WaitUntil(
            times
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(now + LOOK_EVERY),
        )
    }

    /// Records the result of reading the node. Returns the number of consecutive failures.
    pub fn read(&mut self, now: Duration, node: Result<Node, &ApiError>) -> u32 {
        match node {
            Ok(node) => {
                self.reads.succeed();
                self.exact = false;
                self.next_poll = now + self.poll_every;
                self.node = Some(node);
            }
            Err(error) => self.reads.fail(
                now,
                if error.is_forbidden() {
                    FORBIDDEN_RETRY
                } else {
                    API_RETRY
                },
            ),
        }
        self.reads.failures()
    }

    /// Records the result of changing the node. Returns the number of consecutive failures.
    pub fn patched(&mut self, now: Duration, node: Result<Node, &ApiError>) -> u32 {
        match node {
            Ok(node) => {
                self.writes.succeed();
                self.node = Some(node);
                self.has_spoken |= self.proven;
                if self.config.mode == Mode::Taint && !self.proven {
                    let (taint, timeout) = (&self.config.taint, self.config.timeout);
                    self.report = Some(format!(
                        "The startup taint {taint} is removed although the mirror did not get ready within \
                         {timeout:?}: {}. Pods on this node pull without the mirror until it is ready.",
                        self.cause()
                    ));
                }
            }
            Err(error) if error.is_conflict() => {
                self.writes.fail(now, CONFLICT_RETRY);
                self.node = None;
                self.exact = true;
            }
            Err(error) => self.writes.fail(
                now,
                if error.is_forbidden() {
                    FORBIDDEN_RETRY
                } else {
                    API_RETRY
                },
            ),
        }
        self.writes.failures()
    }

    /// Records the result of a trial. Returns whether it differs from the last one.
    pub fn tried(&mut self, now: Duration, result: Result<(), String>) -> bool {
        match result {
            Ok(()) => {
                self.trials.succeed();
                self.trial_failure = None;
                self.proven = true;
                true
            }
            Err(cause) => {
                self.trials.fail(now, TRIAL_RETRY);
                let cause = Some(cause);
                let is_news = self.trial_failure != cause;
                self.trial_failure = cause;
                is_news
            }
        }
    }

    pub fn state(&self) -> State {
        match (&self.node, &self.waiting) {
            (None, _) => State::Unknown,
            (Some(_), None) => State::Ready,
            (Some(_), Some(waiting)) if waiting.timed_out => State::TimedOut,
            _ if self.mirror_waits_for.is_some() => State::WaitingForMirror,
            _ => State::WaitingForTrial,
        }
    }

    /// The result of the last change of the node, for people.
    pub fn achievement(&self) -> String {
        match (self.config.mode, self.proven) {
            (Mode::Taint, true) => format!("the startup taint {} is removed", self.config.taint),
            (Mode::Taint, false) => format!(
                "the startup taint {} is removed although the mirror did not get ready in time",
                self.config.taint
            ),
            (Mode::Condition, true) => "the node's condition says that the mirror is ready".into(),
            (Mode::Condition, false) => {
                "the node's condition says that the mirror is not ready".into()
            }
        }
    }

    fn look_at_mirror(&mut self, now: Duration, mirror_waits_for: Option<String>) {
        self.unready_since = match mirror_waits_for {
            None => None,
            Some(_) => self.unready_since.or(Some(now)),
        };
        self.mirror_waits_for = mirror_waits_for;
        let for_long = |since| now.saturating_sub(since) >= UNREADY_GRACE;
        if self.proven && self.unready_since.is_some_and(for_long) {
            self.proven = false;
        }
        let waits = match (self.config.mode, &self.node) {
            (Mode::Taint, None) => return,
            (Mode::Taint, Some(node)) => node.is_tainted(&self.config.taint),
            (Mode::Condition, _) => !self.proven,
        };
        if !waits {
            self.waiting = None;
            // A taint that returns belongs to a node that has registered again, and needs a new trial.
            self.proven &= self.config.mode == Mode::Condition;
            return;
        }
        let waiting = self.waiting.get_or_insert(Waiting {
            since: now,
            timed_out: false,
        });
        let times_out = !self.proven && now.saturating_sub(waiting.since) >= self.config.timeout;
        let is_new = times_out && !std::mem::replace(&mut waiting.timed_out, times_out);
        if is_new && self.config.mode == Mode::Condition {
            let timeout = self.config.timeout;
            self.report = Some(format!(
                "The mirror did not get ready within {timeout:?}: {}.",
                self.cause()
            ));
        }
    }

    fn taint_patch(&self, node: &Node) -> Option<Patch> {
        let timed_out = self
            .waiting
            .as_ref()
            .is_some_and(|waiting| waiting.timed_out);
        let is_due = node.is_tainted(&self.config.taint) && (self.proven || timed_out);
        is_due.then(|| node.without_taint(&self.config.taint))
    }

    /// Why the mirror is not proven.
    fn cause(&self) -> String {
        match (&self.mirror_waits_for, &self.trial_failure) {
            (Some(waits_for), _) => format!("the mirror is not ready: {waits_for}"),
            (None, Some(failure)) => format!("the trial pull failed: {failure}"),
            (None, None) => "no trial pull has ended yet".into(),
        }
    }
}

#[cfg(test)]
mod tests;
