//! One request, and when it is due.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::outbox::Context;
use crate::pull_rules::STEP;
use crate::view::View;
use crate::wire::{Message, RequestNumber, SourceRequest};
use crate::{Key, NodeId, Time};

/// A request without any answer is repeated after this time.
const REPEAT: Duration = Duration::from_millis(150);
/// An owner without any answer counts as silent after this time; the next owner is asked.
const SILENCE: Duration = Duration::from_millis(400);
/// The time after the last heartbeat of the owner until a request is repeated.
const HEART_REPEAT: Duration = Duration::from_millis(650);
/// The time left to wait for a leader without a byte at which another node should lead as well.
const LATE: Duration = Duration::from_millis(750);
/// An owner counts as silent this long after its last heartbeat.
const HEART_SILENCE: Duration = Duration::from_millis(1_200);

/// An owner that was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskedOwner {
    pub owner: NodeId,
    since: Time,
    /// How often it was asked since its last message. 0: it is to be asked again at once.
    times: u8,
    /// When it last announced that the answer will come.
    heard_at: Option<Time>,
}

impl AskedOwner {
    pub fn new(now: Time, owner: NodeId) -> Self {
        Self {
            owner,
            since: now,
            times: 1,
            heard_at: None,
        }
    }

    /// Records that the owner is asked again.
    pub fn repeat(&mut self) {
        self.times = self.times.saturating_add(1);
    }

    /// Makes the repetition due: there is something new to say.
    pub fn repeat_at_once(&mut self) {
        self.times = 0;
    }

    /// Records that the owner announced that the answer will come.
    pub fn heard(&mut self, now: Time) {
        (self.heard_at, self.times) = (Some(now), 1);
    }

    /// When the owner counts as silent.
    pub fn silent_at(&self) -> Time {
        match self.heard_at {
            Some(heard_at) => heard_at.after(HEART_SILENCE),
            None => self.since.after(SILENCE),
        }
    }

    /// When the owner is asked again: once after each of its messages.
    pub fn repeat_at(&self) -> Option<Time> {
        let at = match self.heard_at {
            Some(heard_at) => heard_at.after(HEART_REPEAT),
            None => self.since.after(REPEAT),
        };
        match self.times {
            0 => Some(self.since),
            1 => Some(at),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) enum Query {
    Source(Box<SourceRequest>),
    Holders(Key),
}

/// A leader that a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lead {
    pub node: NodeId,
    /// Another leader has no byte either, or the registry is slow.
    pub is_upstream_slow: bool,
}

#[derive(Debug)]
pub(super) struct PendingRequest {
    pub number: RequestNumber,
    pub query: Query,
    pub started: Time,
    /// What the pull had lost in vain before this request, and what this request has been charged for (`waited`).
    pub in_vain_before: Duration,
    /// What the pull had waited for leaders without a charge before.
    pub waited_free_before: Duration,
    pub waited: Duration,
    /// Waiting is free until then.
    pub free_until: Time,
    pub deadline: Time,
    pub asked: Option<AskedOwner>,
    /// All owners that were asked. Answers of other nodes do not count.
    pub all_asked: BTreeSet<NodeId>,
    pub lead: Option<Lead>,
    /// The owner was told that this node can wait for the leader of the manifest.
    pub can_wait: bool,
    /// The owner was told that the leader is late.
    pub lead_is_late: bool,
    pub redirects: u8,
    /// Owners that did not answer.
    pub silent: Vec<NodeId>,
}

impl Query {
    pub fn key(&self) -> Key {
        match self {
            Self::Source(request) => request.key(),
            Self::Holders(key) => *key,
        }
    }
}

impl PendingRequest {
    pub fn repository(&self) -> Option<u64> {
        match &self.query {
            Query::Source(request) => Some(request.repository),
            Query::Holders(_) => None,
        }
    }

    /// The registry, by its hash; 0: unknown.
    pub fn registry(&self) -> u64 {
        match &self.query {
            Query::Source(request) => request.registry,
            Query::Holders(_) => 0,
        }
    }

    /// The part of this time that the object takes, if a step takes all of it: one that is smaller is complete before.
    pub fn part_of_step(&self, all: Duration) -> Duration {
        let size = match &self.query {
            Query::Source(request) => request.size,
            Query::Holders(_) => None,
        };
        let (whole, part) = (STEP as u32, size.unwrap_or(STEP).min(STEP) as u32);
        all * part / whole
    }

    /// After this time the request may end without a source, to be repeated. Zero: never.
    pub fn requeue_after(&self) -> Duration {
        match &self.query {
            Query::Source(request) => Duration::from_millis(request.requeue_after_ms.into()),
            Query::Holders(_) => Duration::ZERO,
        }
    }

    pub fn is_of(&self, registry: u64) -> bool {
        matches!(&self.query, Query::Source(request) if request.registry == registry)
    }

    pub fn is_seek_for(&self, key: &Key) -> bool {
        matches!(&self.query, Query::Source(request) if request.key() == *key)
    }

    /// When the owner is to be told that the leader is late.
    pub fn late_at(&self) -> Option<Time> {
        let is_news = self.lead.is_some() && self.asked.is_some() && !self.lead_is_late;
        is_news.then(|| self.deadline.before(LATE).max(self.started))
    }

    pub fn due(&self) -> Time {
        let asked = self.asked.iter();
        let waits = asked.flat_map(|asked| [Some(asked.silent_at()), asked.repeat_at()]);
        let waits = waits.chain([self.late_at()]);
        waits.flatten().fold(self.deadline, Time::min)
    }
}

/// Withdraws a request at the owner that was asked.
pub(super) fn withdraw(open: &PendingRequest, cx: &mut Context<'_, impl View>) {
    if let (Query::Source(request), Some(asked)) = (&open.query, open.asked) {
        cx.out.send(
            asked.owner,
            Message::withdraw(request.key(), open.number.random),
        );
    }
}
