//! Whether this node, and the registries that it leads from, are as fast as they are for others.
//!
//! A node judges itself, and never another node: one that receives little cannot tell whether its own link, its source or
//! upstream is the reason, unless it tests its link.

mod lead;
mod link;
mod registries;
mod slow_sources;
mod source_watch;

pub(crate) use link::Link;
pub use link::{Condition, LinkState, LinkTest};
pub(crate) use registries::{KnownRate, LeadRate, RegistryRates};
pub use slow_sources::SlowSources;
pub use source_watch::{SourceStatus, SourceWatch, Step};

/// What this node receives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiveRates {
    /// From all sources, in bytes per second.
    pub total: u64,
    /// The bytes that have come from each registry, by its hash, since this node leads from it.
    pub led: Vec<(u64, u64)>,
}
