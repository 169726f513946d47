//! A page on which the nodes can be watched, if the caller has one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mirror::{Mirror, PeerId};
use prometheus_client::registry::Registry;

/// A node as a page shows it.
#[derive(Clone)]
pub struct ShownNode {
    pub name: String,
    /// Its id for peers.
    pub id: PeerId,
    pub mirror: Arc<Mirror>,
    pub metrics: Arc<Registry>,
    pub registry_port: u16,
}

/// The address of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub url: String,
    /// Whether a browser shows it.
    pub is_open: bool,
}

/// Shows nodes on a page.
#[async_trait]
pub trait Pages: Send + Sync {
    /// Serves the page of a node, for as long as this lives. Called when all nodes have joined and none has pulled
    /// anything.
    ///
    /// # Errors
    /// The page cannot be served.
    async fn serve(&self, node: ShownNode) -> io::Result<Page>;

    /// How long the nodes stay for viewers after all pulls. `None`: there are no viewers.
    fn lingers(&self) -> Option<Duration>;
}
