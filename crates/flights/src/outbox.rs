//! Messages that the state machine sends.

use std::collections::VecDeque;

use crate::view::View;
use crate::wire::Message;
use crate::{NodeId, Time};

/// A message, and the node whose message the sender passes on, or for which it is passed on.
pub(crate) type Passed = (Option<NodeId>, Message);

/// The messages to send, in order.
#[derive(Debug, Default)]
pub(crate) struct Outbox(VecDeque<(NodeId, Passed)>);

impl Outbox {
    pub fn send(&mut self, to: NodeId, message: Message) {
        self.0.push_back((to, (None, message)));
    }

    /// Passes on a message of another node, or for it.
    pub fn pass_on(&mut self, to: NodeId, on_behalf_of: NodeId, message: Message) {
        self.0.push_back((to, (Some(on_behalf_of), message)));
    }

    pub fn next(&mut self) -> Option<(NodeId, Passed)> {
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
