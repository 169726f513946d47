//! One request, and when it is due.

use std::time::Duration;

use super::RequestId;
use crate::outbox::Context;
use crate::view::View;
use crate::wire::{Message, SourceRequest};
use crate::{Key, NodeId, Time};

/// A request without any answer is repeated after this time.
const REPEAT: Duration = Duration::from_millis(150);
/// An owner without any answer counts as silent after this time; the next owner is asked.
const SILENCE: Duration = Duration::from_millis(400);
/// A request is repeated this long after the last heartbeat of the owner.
const HEART_REPEAT: Duration = Duration::from_millis(650);
/// An owner counts as silent this long after its last heartbeat.
pub(crate) const HEART_SILENCE: Duration = Duration::from_millis(1_200);

#[derive(Debug)]
pub(super) enum Query {
    Source(Box<SourceRequest>),
    Holders(Key),
}

/// A leader that a request waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lead {
    pub node: NodeId,
    /// Waiting is free until then.
    pub free_until: Time,
}

#[derive(Debug)]
pub(super) struct PendingRequest {
    pub id: RequestId,
    pub query: Query,
    pub started: Time,
    /// What the pull had lost in vain before, and what this request has waited since, as far as it is charged.
    pub in_vain_before: Duration,
    pub waited: Duration,
    pub deadline: Time,
    /// The owner asked, since when, and how often.
    pub asked: Option<(NodeId, Time, u8)>,
    /// When the owner last said that the answer will come.
    pub heard_at: Option<Time>,
    pub lead: Option<Lead>,
    /// The request is deferred, and checked again at this time.
    pub deferred_until: Option<Time>,
    /// This node fetches the object for its shard.
    pub is_for_shard: bool,
    /// This node was asked to fetch the object for its shard and declined.
    pub declined_for_shard: bool,
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

    pub fn is_large(&self) -> bool {
        matches!(self, Self::Source(request) if request.is_large())
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

    /// The time after which the client should rather retry later.
    pub fn requeue_after(&self) -> Option<Duration> {
        match &self.query {
            Query::Source(request) => request.requeue_after(),
            Query::Holders(_) => None,
        }
    }

    pub fn is_seek_for(&self, key: &Key) -> bool {
        matches!(&self.query, Query::Source(request) if request.key() == *key)
    }

    pub fn free_until(&self) -> Time {
        self.lead.map_or(self.started, |lead| lead.free_until)
    }

    /// When the owner counts as silent.
    pub fn silent_at(&self) -> Time {
        match (self.heard_at, self.asked) {
            (Some(heard_at), _) => heard_at.after(HEART_SILENCE),
            (None, Some((_, since, _))) => since.after(SILENCE),
            (None, None) => self.deadline,
        }
    }

    pub fn due(&self) -> Time {
        if let Some(deferred_until) = self.deferred_until {
            return deferred_until;
        }
        let repeat = match (self.heard_at, self.asked) {
            (None, Some((_, since, 1))) => since.after(REPEAT),
            (Some(heard_at), Some((_, _, 1))) => heard_at.after(HEART_REPEAT),
            _ => self.deadline,
        };
        repeat.min(self.silent_at()).min(self.deadline)
    }
}

/// Withdraws a request at the owners that may have others wait for it.
pub(super) fn withdraw(open: &PendingRequest, number: u64, cx: &mut Context<'_, impl View>) {
    if let (Query::Source(request), Some((owner, ..))) = (&open.query, open.asked) {
        let key = request.key();
        let sent_on = cx.view.arbiter(&key).filter(|arbiter| *arbiter != owner);
        for asked in sent_on.into_iter().chain([owner]) {
            cx.out.send(asked, Message::withdraw(key, number));
        }
    }
}
