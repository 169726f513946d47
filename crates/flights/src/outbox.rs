//! Messages on their way out of the state machine.

use std::collections::VecDeque;

use crate::NodeId;
use crate::wire::Message;

/// What is to be sent, in order.
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
