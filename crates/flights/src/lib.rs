//! Once per cluster: the rules by which nodes that pull one image at the same moment take it from upstream once.
//!
//! Pure: no I/O, no clock, no randomness of its own. Time, messages and a seed go in; messages to send, deadlines and
//! decisions come out. The libp2p adapter, the property tests and the simulator drive the same code.
//!
//! - [`members`]: who is in the cluster, by SWIM.
//! - [`slots`]: who owns which keys, from the members alone.

pub mod members;
mod random;
pub mod slots;
mod time;

pub use members::NodeId;
pub use time::{Born, Time};
