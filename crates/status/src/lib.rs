//! The state of a mirror: one model ([`Status`]), and its views: a page ([`page`]), text for a terminal ([`text`]) and,
//! with serde, JSON.
//!
//! Pure: a [`Status`] is gathered and sent elsewhere. The whole page is rendered here, so that it can be read without
//! JavaScript; with it, the server sends the same fragments again whenever something changes.

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
