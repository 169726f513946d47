//! Whether this node, and the registries that it leads from, are as fast as they are for others.
//!
//! A node judges itself, and never another node: one that receives little cannot tell whether its own link, its source or
//! upstream is the reason, unless it tests its link.

mod link;
mod registries;
mod slow_sources;
mod source_watch;

pub(crate) use link::Link;
pub use link::{Condition, LinkState, LinkTest};
pub(crate) use registries::{KnownRate, LeadRate, RegistryRates};
pub use slow_sources::SlowSources;
pub use source_watch::{SourceStatus, SourceWatch, Step};

/// What this node receives, in bytes per second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiveRates {
    /// From all sources.
    pub total: u64,
    /// From each registry, by its hash, of objects that this node leads.
    pub led: Vec<(u64, u64)>,
}
