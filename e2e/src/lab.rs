//! A cluster and its upstream, built for one test and removed with it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use futures::future::try_join_all;
use tls::testing::NodeFiles;

use crate::containerd::Generation;
use crate::network::{Host, Network};
use crate::node::Node;
use crate::registry::Registry;
use crate::site::Site;

/// The last part of addresses.
const UPSTREAM: u8 = 2;
const FIRST_NODE: u8 = 11;

/// The port of the containerds' upstream.
const UPSTREAM_PORT: u16 = 5000;

/// The settings that differ from those of a default node.
#[derive(Clone, Copy, Default)]
pub struct Settings {
    /// Further lines of containerd's configuration.
    pub containerd: &'static str,
    /// Whether containerd removes layers once they are unpacked: `discard_unpacked_layers`.
    pub discards_layers: bool,
    /// Whether `config_path` is a list with colons, of which the folder in use is the first.
    pub lists_config_paths: bool,
    /// Whether containerd runs containers, not only pulls images.
    pub runs_containers: bool,
    /// Further options of the mirror.
    pub mirror: &'static [&'static str],
    /// Whether the mirrors are named after their hosts' addresses. Otherwise all have the name of the machine.
    pub names: bool,
    /// Whether the mirror recognises its containerd by a secret.
    pub secret: bool,
    /// The network keys of the mirror, one on each line. `None`: it has none.
    pub network_keys: Option<&'static str>,
    /// The certificates of the mirror. `None`: it has none.
    pub peer_tls: Option<&'static NodeFiles>,
    /// Whether the mirror can read its containerd's registry configuration, and so can ask the upstream for the targets
    /// of tags and for what is public.
    pub checks: bool,
    /// The limit of the mirror's descriptors. `None`: that of the test.
    pub descriptors: Option<u32>,
    /// Whether there is no mirror: containerd asks the registries.
    pub plain: bool,
}

/// A network with everything connected to it. Parts are dropped in order: processes before namespaces.
pub struct Lab {
    /// The registry that the nodes mirror.
    pub upstream: Registry,
    network: Network,
    folder: PathBuf,
    logs: PathBuf,
}

impl Lab {
    /// A lab without nodes; logs are written to `logs`.
    pub async fn new(logs: PathBuf) -> Result<Lab> {
        let (name, folder) = Site::get()?.lab()?;
        let network = Network::new(&name)?;
        let host = network.host("upstream", UPSTREAM)?;
        let log = logs.join("upstream.log");
        let upstream = Registry::start(host, UPSTREAM_PORT, &folder.join("upstream"), log).await?;
        Ok(Lab {
            upstream,
            network,
            folder,
            logs,
        })
    }

    /// Starts nodes that mirror the upstream, and waits until all mirrors are ready. Must be called only once; the
    /// nodes must be dropped before the lab.
    pub async fn start_nodes<const N: usize>(&self, generation: Generation) -> Result<[Node; N]> {
        self.start_nodes_with(generation, Settings::default()).await
    }

    /// Does the same with nodes that have other settings.
    pub async fn start_nodes_with<const N: usize>(
        &self,
        generation: Generation,
        settings: Settings,
    ) -> Result<[Node; N]> {
        self.start_nodes_of([generation; N], settings).await
    }

    /// Does the same with a containerd of each of these generations.
    pub async fn start_nodes_of<const N: usize>(
        &self,
        generations: [Generation; N],
        settings: Settings,
    ) -> Result<[Node; N]> {
        let registries = [self.upstream.url()];
        let mut starts = Vec::new();
        for (last, generation) in (FIRST_NODE..).zip(generations) {
            let name = Lab::node_name(usize::from(last - FIRST_NODE));
            let (host, folder) = (self.network.host(&name, last)?, self.folder(&name)?);
            let (registries, logs) = (&registries, &self.logs);
            starts.push(async move {
                let first = [10, 77, 0, FIRST_NODE].into();
                Node::start(host, generation, settings, registries, first, &folder, logs).await
            });
        }
        let mut nodes = try_join_all(starts)
            .await
            .context("the nodes did not start")?;
        try_join_all(nodes.iter_mut().map(Node::ready)).await?;
        nodes.try_into().map_err(|_| anyhow!("more nodes than {N}"))
    }

    /// The name of the folder of a node, by its number from 0.
    pub fn node_name(number: usize) -> String {
        format!("node{}", usize::from(FIRST_NODE) + number)
    }

    /// Adds an empty host, at 10.77.0.`last`.
    pub fn add_host(&self, name: &str, last: u8) -> Result<Host> {
        self.network.host(name, last)
    }

    /// Adds a registry on a separate host, at 10.77.0.`last`.
    pub async fn add_registry(&self, name: &str, last: u8, port: u16) -> Result<Registry> {
        let host = self.network.host(name, last)?;
        Registry::start(host, port, &self.folder.join(name), self.log(name)).await
    }

    /// An empty folder that is removed with the lab.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("{} not made", folder.display()))?;
        Ok(folder)
    }

    /// The path of a program's log.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The upstream still runs, but needs none of its open files.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
