//! Messages that the state machine sends.

use std::collections::VecDeque;

use crate::view::View;
use crate::wire::Message;
use crate::{NodeId, Time};

/// The messages to send, in order.
#[derive(Debug, Default)]
pub(crate) struct Outbox(VecDeque<(NodeId, Message)>);

impl Outbox {
    pub fn send(&mut self, to: NodeId, message: Message) {
        self.0.push_back((to, message));
    }

    pub fn next(&mut self) -> Option<(NodeId, Message)> {
        self.0.pop_front()
    }
}

/// What a rule reads and writes besides its own state: the time, the cluster, and messages to send.
pub(crate) struct Context<'a, V> {
    pub now: Time,
    pub view: &'a V,
    pub out: &'a mut Outbox,
}

impl<'a, V: View> Context<'a, V> {
    pub fn new(now: Time, view: &'a V, out: &'a mut Outbox) -> Self {
        Self { now, view, out }
    }
}
