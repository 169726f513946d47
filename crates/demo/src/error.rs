//! The reasons why the demo failed.

use std::io;
use std::path::PathBuf;

use indicatif::DecimalBytes;

pub use crate::client::PullError;

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("cannot make a temporary folder; set TMPDIR to one that can be written")]
    Folder(#[source] io::Error),
    #[error(
        "the demo needs {} in {folder}, which has {} left; give a smaller --size or set TMPDIR",
        DecimalBytes(*.needed),
        DecimalBytes(*.free)
    )]
    Room {
        folder: PathBuf,
        needed: u64,
        free: u64,
    },
    #[error("cannot write the image to {folder}; check the disk or set TMPDIR")]
    Generate { folder: PathBuf, source: io::Error },
    #[error("cannot name the demo's image")]
    Name(#[from] oci::NameError),
    #[error("cannot listen on 127.0.0.1")]
    Listen(#[source] io::Error),
    #[error("cannot serve the page of a node")]
    Page(#[source] io::Error),
    #[error("cannot open a store")]
    Store(#[from] layout::OpenError),
    #[error("cannot start the router of node {number}")]
    Router {
        number: usize,
        source: swarm::SwarmError,
    },
    #[error("cannot talk to upstream registries")]
    Upstream(#[from] upstream::SetupError),
    #[error(
        "node {number} met {peers} of {expected} other nodes in time; does something filter loopback?"
    )]
    Join {
        number: usize,
        peers: usize,
        expected: usize,
    },
    #[error("node {number} could not pull the image")]
    Pull { number: usize, source: PullError },
    /// Each fault is a sentence.
    #[error(
        "the pulls did not go as they should (a machine without CPU to spare needs fewer --nodes or --layers):\n  {}",
        .0.join("\n  ")
    )]
    Off(Vec<String>),
    #[error("a task of the demo failed")]
    Task(#[source] tokio::task::JoinError),
    #[error("cannot write the results")]
    Output(#[source] io::Error),
    #[error("interrupted; nothing is left behind")]
    Interrupted,
}
