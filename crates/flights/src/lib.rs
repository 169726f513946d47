//! Once per cluster: the rules by which nodes that pull one image at the same moment take it from upstream once.
//!
//! Pure: no I/O, no clock, no randomness of its own. Time, messages and a seed go in; messages to send, deadlines and
//! decisions come out. The libp2p adapter, the property tests and the simulator drive the same code.
//!
//! - [`members`]: who is in the cluster, by SWIM.
//! - [`slots`]: who owns which keys, from the members alone; the districts of a large cluster.
//! - `arbiter`: what an owner does: who has what, who leads, who follows whom.
//! - `holdings`, `seeks`, `pulls`, `budget`: what a node tells owners, asks them, and may wait for.
//! - [`Node`]: all of it; [`Desk`]: all but the members.

mod arbiter;
mod budget;
mod desk;
mod holdings;
mod key;
pub mod members;
mod node;
mod outbox;
mod pulls;
mod random;
mod seeks;
pub mod slots;
mod time;
mod view;
mod wire;

pub use budget::BUDGET;
pub use desk::Desk;
pub use key::Key;
pub use members::{Datagram, NodeId};
pub use node::Node;
pub use pulls::News;
pub use seeks::{Outcome, Place, SeekId, Wanted};
pub use time::{Born, Time};
pub use view::View;
pub use wire::{DecodeError, MAX_DATAGRAM};
