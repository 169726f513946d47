//! The node's readiness in Kubernetes: a startup taint or a node condition that follows the mirror.
//!
//! A node that joins a cluster gets its first pods before its mirror runs. A startup taint keeps them away; this crate
//! removes the taint once the mirror has proved that it works: the mirror is ready, and containerd has pulled a trial
//! image through it. In the other mode a node condition shows the same, for a controller that manages taints.
//!
//! The module `readiness` decides, without I/O. [`NodeReadiness`] executes its decisions: two kinds of requests to the
//! API server for one node, and the trial through [`Probe`].
//!
//! # Load
//! Each mirror reads its node about once a minute, from the API server's cache. That is 167 reads a second in a cluster
//! of 10,000 nodes. The kubelets of such a cluster read their nodes six times as often and renew 1,000 leases a second.
//! A watch would be faster, but would keep 10,000 connections open for a taint that returns only when a node registers
//! again.

mod api;
mod config;
mod event;
mod keeper;
mod metrics;
mod node;
mod readiness;
mod service_account;

pub use config::{Config, Mode, ModeError};
pub use keeper::{NodeReadiness, Probe};
pub use service_account::{ServiceAccount, ServiceAccountError};
