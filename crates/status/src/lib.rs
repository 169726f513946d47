//! How a mirror is doing: one model ([`Status`]), and how it is shown: as a page ([`page`]), as text for a terminal
//! ([`text`]) and, by serde, as JSON.
//!
//! Pure: who gathers a [`Status`] and who sends it is elsewhere. The page is rendered here whole, so that it can be read
//! without JavaScript; with it, the server sends the same fragments again whenever something changes.

pub mod cluster;
pub mod content;
mod model;
pub mod page;
pub mod text;
pub mod words;

pub use cluster::Cluster;
pub use content::Content;
pub use model::{
    Finished, Node, Object, Peer, PeerState, Pull, Source, Status, Totals, TreeNode, TreeSource,
    TrialObject, TrialPull, TrialSource,
};
