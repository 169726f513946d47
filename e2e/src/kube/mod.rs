//! A real Kubernetes in namespaces, for the end-to-end tests of the chart. `cargo xtask kube` runs them.
//!
//! Control plane, registry and nodes are machines in namespaces on one network. Each node has a containerd and a
//! kubelet at their usual paths, as the chart's defaults expect. The network has no connection to the outside.

mod cgroups;
mod cluster;
mod control;
mod machine;
mod node;
mod options;
mod pki;
mod pulls;
mod upstream;

pub use cluster::Cluster;
pub use control::Control;
pub use machine::Machine;
pub use node::{CERTS, Node};
pub use options::{Options, Spegel};
pub use pulls::{Pulls, Tally};
pub use upstream::Upstream;
