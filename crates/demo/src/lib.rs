//! A cluster on loopback that pulls an image once: Peili to look at, without anything to set up.
//!
//! An upstream registry holds a generated image; each node is what `peili registry --store layout` runs, with a folder
//! of its own, over real libp2p and HTTP. At the same moment a client at each node pulls the image as a container engine
//! would, and verifies every digest. What came from where is read from the nodes' metrics, and must be one copy from
//! upstream and all others from peers.

mod client;
mod error;
mod feeds;
mod folder;
mod image;
mod node;
mod pages;
mod play;
mod registry;
mod report;
mod screen;

use std::io::Write;
use std::ops::RangeInclusive;
use std::path::Path;

use oci::Name;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use error::{DemoError, PullError};
pub use pages::{Page, Pages, ShownNode};
pub use report::{Feeder, NodeReport, Report};
pub use screen::Output;

use folder::Folder;
use node::Node;
use screen::Screen;

/// How many nodes there may be. More than one machine's cores can play in real time would only show what nodes do when
/// their peers are too slow: pull from upstream.
pub const NODES: RangeInclusive<usize> = 2..=32;
/// How many layers a generated image may have.
pub const LAYERS: RangeInclusive<u64> = 1..=100;
/// How many bytes its files may have together.
pub const SIZE: RangeInclusive<u64> = 1024..=4 * 1024 * 1024 * 1024;

/// What is shown, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Within [`NODES`].
    pub nodes: usize,
    pub image: Image,
    pub output: Output,
}

/// What the nodes pull.
#[derive(Clone, Debug)]
pub enum Image {
    /// One made up for the occasion, held by a registry of the demo.
    Generated {
        /// In bytes, within [`SIZE`].
        size: u64,
        /// Within [`LAYERS`].
        layers: u64,
    },
    /// One of a registry out there, which has to give it without credentials.
    Registry(Name),
}

/// Runs the demo and shows it on `out`, with bars on standard error where that is a terminal, and by `pages`. Leaves nothing
/// behind, after `shutdown` neither.
///
/// # Errors
/// Something failed, or was not as it should be: a pull, a digest, a sum of bytes.
pub async fn run(
    options: &Options,
    out: impl Write + Send,
    pages: Option<&dyn Pages>,
    shutdown: CancellationToken,
) -> Result<Report, DemoError> {
    run_in(&std::env::temp_dir(), options, out, pages, shutdown).await
}

async fn run_in(
    parent: &Path,
    options: &Options,
    out: impl Write + Send,
    pages: Option<&dyn Pages>,
    shutdown: CancellationToken,
) -> Result<Report, DemoError> {
    let mut folder = Folder::new_in(parent)?;
    let mut screen = Screen::new(options.output, out);
    let result = tokio::select! {
        biased;
        () = shutdown.cancelled() => Err(DemoError::Interrupted),
        result = play::play(options, &mut folder, &mut screen, pages, &shutdown) => result,
    };
    let result = match result {
        Ok((report, nodes)) => linger(&mut screen, pages, &shutdown, nodes)
            .await
            .map(|()| report),
        Err(error) => Err(error),
    };
    folder.clear().await;
    result
}

/// Keeps the nodes for as long as somebody looks at their page.
async fn linger<W: Write>(
    screen: &mut Screen<W>,
    pages: Option<&dyn Pages>,
    shutdown: &CancellationToken,
    nodes: Vec<Node>,
) -> Result<(), DemoError> {
    if let Some(limit) = pages.and_then(Pages::lingers) {
        screen.linger(limit).map_err(DemoError::Output)?;
        let _ = shutdown.run_until_cancelled(sleep(limit)).await;
    }
    drop(nodes);
    Ok(())
}

#[cfg(test)]
mod tests;
