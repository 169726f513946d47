//! A lab for end-to-end tests: every node is a network namespace with a real containerd and a Peili, all on one bridge
//! with a real upstream registry. Images are pulled by a kubelet's call.
//!
//! Needs root, the packages that `cargo xtask test` installs, and the containerds that it unpacks into `target/e2e`.
//! Nothing leaves the namespaces, and the machine's own network is not changed. The next run removes what an
//! interrupted one leaves behind.

mod browser;
mod certificates;
pub mod chaos;
mod containerd;
mod cri;
pub mod crowd;
mod gate;
mod http;
mod image;
pub mod kube;
mod lab;
mod mirror;
mod network;
mod node;
mod other_version;
mod process;
mod registry;
mod run;
mod site;
mod tar;
mod wait;

pub use crate::certificates::{ask_by_tls, publish};
pub use crate::containerd::{Containerd, Generation};
pub use crate::mirror::{Mirror, REGISTRY_PORT, ROUTER_PORT, Store, configure, peili};
pub use browser::{Browser, Screen};
pub use cri::Cri;
pub use gate::{Gate, Treatment};
pub use image::{Blob, Image};
pub use lab::{Lab, Settings};
pub use network::Host;
pub use node::Node;
pub use other_version::OtherVersion;
pub use process::{Daemon, output};
pub use registry::{Registry, USER};
pub use run::{logs, run};
pub use tar::Tar;
pub use wait::until;
