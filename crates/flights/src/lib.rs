//! Once per cluster: the rules by which nodes that pull an image at the same moment pull it from upstream once.
//!
//! Pure: no I/O, no clock, no source of randomness. Time, messages and a seed go in; messages to send, deadlines and
//! decisions come out. The libp2p adapter, the property tests and the simulator run the same code.
//!
//! - [`members`]: the members of the cluster, by SWIM.
//! - [`slots`]: which node owns which keys, derived from the members; the shards of a large cluster.
//! - `arbiter`: the owner's side: holders, leaders and followers of each key.
//! - `holdings`, `requests`, `pulls`, `ledger`: what a node announces, requests and reports, and how long it may wait.
//! - [`pull_rules`]: how a node pulls an object, and what it serves of it meanwhile.
//! - `speed`: whether this node and its registries are as fast as they are for others, and whether a source is.
//! - `wire`: the messages, as defined in `proto/`.
//! - [`Node`]: all of it; [`Coordinator`]: all but the members.

#![warn(missing_docs)]

mod arbiter;
mod coordinator;
mod decision;
mod holdings;
mod key;
pub mod ledger;
pub mod members;
mod node;
mod outbox;
pub mod pull_rules;
mod pulls;
mod random;
mod requests;
pub mod slots;
mod speed;
mod time;
mod view;
mod wire;

pub use coordinator::{Coordinator, Event};
pub use decision::{ChainPosition, Decision};
pub use key::Key;
pub use members::{Datagram, NodeId};
pub use node::Node;
pub use pulls::PullProgress;
pub use requests::RequestId;
pub use speed::{
    Condition, LinkState, LinkTest, Received, SlowSources, SourceStatus, SourceWatch, Starved,
    WatchAction,
};
pub use time::{Born, Time};
pub use view::View;
pub use wire::{DecodeError, MAX_DATAGRAM, SourceRequest, node_field, nodes_field, registry_hash};
