//! The decisions of readiness, and the description of its state.

use std::time::Duration;

use crate::node::Patch;

/// What to do next.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Read the node; `exact`: not from the API server's cache, which is known to be stale.
    Read { exact: bool },
    /// Pull a trial image.
    Trial,
    /// Change the node.
    Patch(Patch),
    /// Record an Event with this message.
    Report(String),
    /// Wait until this time.
    WaitUntil(Duration),
}

/// The state of the node's readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The node has not been read yet.
    Unknown,
    WaitingForMirror,
    WaitingForTrial,
    /// The node is not tainted, or its condition shows that the mirror is ready.
    Ready,
    /// The mirror did not get ready within the timeout.
    TimedOut,
}

impl State {
    pub const ALL: [Self; 5] = [
        Self::Unknown,
        Self::WaitingForMirror,
        Self::WaitingForTrial,
        Self::Ready,
        Self::TimedOut,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::WaitingForMirror => "waiting_for_mirror",
            Self::WaitingForTrial => "waiting_for_trial",
            Self::Ready => "ready",
            Self::TimedOut => "timed_out",
        }
    }
}
