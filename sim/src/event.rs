//! Events in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use flights::{Decision, Event as FlightEvent, RequestId, SourceStatus};

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
    /// A download may have a slot.
    Pump {
        node: u32,
    },
    /// A datagram arrives at a node.
    Arrives {
        from: u32,
        to: u32,
        bytes: Bytes,
    },
    /// A node handles a datagram.
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
    Decided {
        node: u32,
        request: RequestId,
        decision: Decision,
    },
    LookedUp {
        node: u32,
        object: u32,
    },
    /// A request arrives at a source.
    Asked {
        pull: Attempt,
    },
    /// A request is requeued.
    Requeue {
        pull: Attempt,
    },
    /// The source refused, failed or died.
    SourceFailed {
        pull: Attempt,
    },
    /// The source is busy.
    SourceBusy {
        pull: Attempt,
    },
    /// Upstream begins to send.
    Begins {
        pull: Attempt,
    },
    Denied {
        pull: Attempt,
    },
    /// A small object has arrived.
    Completed {
        pull: Attempt,
    },
    Die {
        node: u32,
    },
    OwnersDie,
    /// A node has something to do, or learns something about itself.
    Flight {
        node: u32,
        event: FlightEvent,
    },
    LinkTested {
        node: u32,
    },
    /// A source reports its progress.
    Status {
        pull: Attempt,
        status: SourceStatus,
    },
    Join {
        node: u32,
    },
}

/// One attempt to get an object to a node. Events of an earlier attempt are void.
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

/// Events by time; those of the same time in the order of their creation.
#[derive(Debug, Default)]
pub struct EventQueue {
    events: BinaryHeap<Reverse<Timed>>,
    count: u64,
}

impl EventQueue {
    pub fn push(&mut self, at: Micros, event: Event) {
        self.count += 1;
        self.events.push(Reverse(Timed {
            at,
            count: self.count,
            event,
        }));
    }

    /// The next event, if it is due by `limit`.
    pub fn pop_by(&mut self, limit: Micros) -> Option<(Micros, Event)> {
        let Reverse(next) = self.events.peek()?;
        if next.at > limit {
            return None;
        }
        let Reverse(next) = self.events.pop()?;
        Some((next.at, next.event))
    }
}
