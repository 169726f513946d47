//! The node's containerd as a store: its content, its downloads, its configuration.
//!
//! containerd fills its content store itself; this crate observes it. The files are read in place, and a catalog in
//! memory is kept up to date with the disk (a listing at the start and every minute, inotify in between) and with
//! containerd's data on each object (labels, image names; its events only speed this up, because releases before 2.1
//! send none for content, and no release sends one when content is collected). Works with containerd 1.6, 1.7 and 2.x.

mod blobs;
mod checks;
mod client;
mod config;
mod connector;
mod error;
mod follow;
mod images;
mod ingest;
mod inventory;
mod keeper;
mod labels;
mod leases;
mod listing;
mod listing_schedule;
mod metrics;
mod proto;
mod questions;
mod retain;
mod session;
mod store;
mod trial;
mod watch;

pub use checks::{Finding, Setup, State, Topic, check};
pub use client::CallError;
pub use config::{Config, Namespace, NamespaceError};
pub use error::Error;
pub use retain::Retain;
pub use store::Containerd;
pub use trial::{TrialError, run_trial};

#[cfg(test)]
mod tests;
