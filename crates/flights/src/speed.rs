//! Judges whether this node, and the registries that it leads from, are as fast as they are for others.
//!
//! A node judges itself, and never another node: one that receives little cannot tell whether its own link, its source
//! or upstream is the reason, unless it tests its link.

mod lead;
mod link;
mod registries;
mod slow_sources;
mod source_watch;

pub(crate) use link::Link;
pub use link::{Condition, LinkState, LinkTest};
pub(crate) use registries::{FIRST_STEPS_MAX, LeadRate, LeadSample, RegistryRates};
pub use slow_sources::SlowSources;
pub use source_watch::{SourceStatus, SourceWatch, Starved, WatchAction};

/// The rates at which this node receives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The rate from all sources, in bytes per second.
    pub rate: u64,
    /// The bytes that have come from each registry, by its hash, since this node leads from it.
    pub led_bytes: Vec<(u64, u64)>,
}
