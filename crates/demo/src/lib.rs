//! A cluster on loopback that pulls an image once: a demonstration of Peili without any setup.
//!
//! An upstream registry has a generated image. Each node is what `peili registry --store layout` runs, with its own
//! folder, over real libp2p and HTTP. At the same moment a client at each node pulls the image as a container engine
//! would, and verifies every digest. The sources are read from the nodes' metrics, and must be one copy from upstream
//! and all others from peers.

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

/// The possible numbers of nodes. More than a machine's cores can run in real time would only show how nodes react to
/// slow peers: by pulling from upstream.
pub const NODES: RangeInclusive<usize> = 2..=32;
/// The possible numbers of layers of a generated image.
pub const LAYERS: RangeInclusive<u64> = 1..=100;
/// The possible total bytes of its files.
pub const SIZE: RangeInclusive<u64> = 1024..=4 * 1024 * 1024 * 1024;

/// The options of the demo.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of nodes, within [`NODES`].
    pub nodes: usize,
    pub image: Image,
    pub output: Output,
}

/// The image that the nodes pull.
#[derive(Clone, Debug)]
pub enum Image {
    /// A generated one, in a registry of the demo.
    Generated {
        /// The size in bytes, within [`SIZE`].
        size: u64,
        /// The number of layers, within [`LAYERS`].
        layers: u64,
    },
    /// One of a real registry, which must send it without credentials.
    Registry(Name),
}

/// Runs the demo and shows it on `out`, with bars on standard error if that is a terminal, and by `pages`. Leaves
/// nothing behind, not even after `shutdown`.
///
/// # Errors
/// Something failed or was wrong: a pull, a digest, a sum of bytes.
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

/// Keeps the nodes while their page is being viewed.
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
