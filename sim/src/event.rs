//! What is to happen, and when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use flights::{Outcome, SeekId};

use crate::setup::{Micros, Plan};

#[derive(Debug)]
pub enum Event {
    Start {
        plan: Plan,
    },
    Retry {
        node: u32,
        image: u32,
    },
    /// There may be a place for a download.
    Pump {
        node: u32,
    },
    /// A datagram has come to a node…
    Arrives {
        from: u32,
        to: u32,
        bytes: Bytes,
    },
    /// …and is taken up there.
    Deliver {
        from: u32,
        to: u32,
        bytes: Bytes,
    },
    Undelivered {
        from: u32,
        to: u32,
    },
    Wake {
        node: u32,
    },
    Outcome {
        node: u32,
        seek: SeekId,
        outcome: Outcome,
    },
    LookedUp {
        node: u32,
        object: u32,
    },
    /// The request is at the source.
    Asked {
        pull: Attempt,
    },
    /// The request lets others go first.
    GivesWay {
        pull: Attempt,
    },
    /// The source has no use, or is gone.
    Useless {
        pull: Attempt,
    },
    /// Upstream begins to send.
    Begins {
        pull: Attempt,
    },
    Denied {
        pull: Attempt,
    },
    /// A small object is there.
    Landed {
        pull: Attempt,
    },
    Die {
        node: u32,
    },
    OwnersDie,
    /// A node hears that it stays behind another, which takes in so many bytes a second.
    Outrun {
        node: u32,
        rate: u64,
    },
    Detected {
        nodes: Vec<u32>,
    },
    Join {
        node: u32,
    },
}

/// One try to get an object to a node; what belongs to an earlier one is void.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub node: u32,
    pub object: u32,
    pub number: u32,
}

#[derive(Debug)]
struct Timed {
    at: Micros,
    count: u64,
    event: Event,
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.count).cmp(&(other.at, other.count))
    }
}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Timed {}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count
    }
}

/// Events in the order of time, and of their coming where that is the same.
#[derive(Debug, Default)]
pub struct Agenda {
    events: BinaryHeap<Reverse<Timed>>,
    count: u64,
}

impl Agenda {
    pub fn push(&mut self, at: Micros, event: Event) {
        self.count += 1;
        self.events.push(Reverse(Timed {
            at,
            count: self.count,
            event,
        }));
    }

    /// The next event, if it is due by then.
    pub fn pop_by(&mut self, limit: Micros) -> Option<(Micros, Event)> {
        let Reverse(next) = self.events.peek()?;
        if next.at > limit {
            return None;
        }
        let Reverse(next) = self.events.pop()?;
        Some((next.at, next.event))
    }
}
