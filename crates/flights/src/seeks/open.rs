//! One question, and when it is due.

use std::time::Duration;

use super::{GRACE, SeekId, Wanted};
use crate::outbox::Outbox;
use crate::view::View;
use crate::wire::Message;
use crate::{Key, NodeId, Time};

/// An owner that has not said anything by then is asked again…
const REPEAT: Duration = Duration::from_millis(150);
/// …and is taken to be silent by then; the next owner is asked.
const SILENCE: Duration = Duration::from_millis(400);
/// An owner that missed a heartbeat is asked again by then…
const HEART_REPEAT: Duration = Duration::from_millis(650);
/// …and is taken to be silent by then.
pub(crate) const HEART_SILENCE: Duration = Duration::from_millis(1_200);

#[derive(Debug)]
pub(super) enum Question {
    Seek(Wanted),
    Find(Key),
}

/// A lead that is waited for, at no charge until then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lead {
    pub node: NodeId,
    pub from: Time,
    pub until: Time,
}

#[derive(Debug)]
pub(super) struct Open {
    pub seek: SeekId,
    pub question: Question,
    pub started: Time,
    /// There is time to wait for somebody.
    pub is_patient: bool,
    pub deadline: Time,
    /// What it has waited before is charged.
    pub metered: Time,
    /// Whom, since when, how often.
    pub asked: Option<(NodeId, Time, u8)>,
    /// When the owner last said that the answer will come.
    pub heard: Option<Time>,
    pub lead: Option<Lead>,
    /// It is kept back, and looked at again by then.
    pub held: Option<Time>,
    /// This node gets it for its district…
    pub is_for_district: bool,
    /// …or was asked to, and somebody else should.
    pub declines: bool,
    pub redirects: u8,
    /// Owners that did not answer.
    pub silent: Vec<NodeId>,
}

impl Question {
    pub fn key(&self) -> &Key {
        match self {
            Self::Seek(wanted) => &wanted.key,
            Self::Find(key) => key,
        }
    }

    pub fn is_large(&self) -> bool {
        matches!(self, Self::Seek(wanted) if wanted.is_large())
    }
}

impl Open {
    pub fn group(&self) -> Option<u64> {
        match &self.question {
            Question::Seek(wanted) => Some(wanted.group),
            Question::Find(_) => None,
        }
    }

    /// After how long it would rather come again later.
    pub fn yields(&self) -> Option<Duration> {
        match &self.question {
            Question::Seek(wanted) => wanted.yields,
            Question::Find(_) => None,
        }
    }

    pub fn is_seek_for(&self, key: &Key) -> bool {
        matches!(&self.question, Question::Seek(wanted) if wanted.key == *key)
    }

    pub fn free_until(&self) -> Time {
        let grace = self.started.after(GRACE);
        self.lead.map_or(grace, |lead| lead.until.max(grace))
    }

    /// When the owner is taken to be silent.
    pub fn silence(&self) -> Time {
        match (self.heard, self.asked) {
            (Some(heard), _) => heard.after(HEART_SILENCE),
            (None, Some((_, since, _))) => since.after(SILENCE),
            (None, None) => self.deadline,
        }
    }

    pub fn due(&self) -> Time {
        if let Some(held) = self.held {
            return held;
        }
        let repeat = match (self.heard, self.asked) {
            (None, Some((_, since, 1))) => since.after(REPEAT),
            (Some(heard), Some((_, _, 1))) => heard.after(HEART_REPEAT),
            _ => self.deadline,
        };
        repeat.min(self.silence()).min(self.deadline)
    }
}

/// Lets all know who may have others wait for what comes of a question that nothing will come of it.
pub(super) fn withdraw(open: &Open, number: u64, view: &impl View, out: &mut Outbox) {
    if let (Question::Seek(wanted), Some((owner, ..))) = (&open.question, open.asked) {
        let key = wanted.key;
        let sent_on = view.arbiter(&key).filter(|arbiter| *arbiter != owner);
        for asked in sent_on.into_iter().chain([owner]) {
            out.send(asked, Message::Withdraw { key, number });
        }
    }
}
