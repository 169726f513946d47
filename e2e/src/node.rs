//! A node: a host with a containerd and a mirror.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::containerd::{Containerd, Generation};
use crate::image::Image;
use crate::mirror::{self, Mirror, Store};
use crate::network::Host;
use crate::wait;

/// A node of the cluster.
pub struct Node {
    pub containerd: Containerd,
    mirror: Option<Mirror>,
    /// Dropped after what runs on it.
    pub host: Host,
    /// The registries that are mirrored, as URLs.
    registries: Vec<String>,
    /// The node that all others bootstrap from.
    first: Ipv4Addr,
    data: PathBuf,
    log: PathBuf,
}

impl Node {
    /// Starts the containerd, and the mirror without waiting for it: the first is ready only once
    /// others are there.
    pub async fn start(
        host: Host,
        generation: Generation,
        registries: &[String],
        first: Ipv4Addr,
        folder: &Path,
        logs: &Path,
    ) -> Result<Node> {
        let name = folder
            .file_name()
            .context("a node's folder has a name")?
            .to_string_lossy();
        let containerd_log = logs.join(format!("{name}-containerd.log"));
        let containerd = Containerd::start(generation, &host, folder, containerd_log).await?;
        mirror::configure(&containerd.hosts(), registries, host.address)?;
        let mut node = Node {
            host,
            containerd,
            mirror: None,
            registries: registries.to_vec(),
            first,
            data: folder.join("data"),
            log: logs.join(format!("{name}-peili.log")),
        };
        node.start_mirror()?;
        Ok(node)
    }

    /// Starts the mirror.
    pub fn start_mirror(&mut self) -> Result<()> {
        std::fs::create_dir_all(&self.data)?;
        let store = Store::Containerd(&self.containerd);
        let registries = &self.registries;
        let mirror = Mirror::start(
            &self.host, &store, registries, &self.data, self.first, &self.log,
        )?;
        self.mirror = Some(mirror);
        Ok(())
    }

    /// Waits until the mirror is ready.
    pub async fn ready(&mut self) -> Result<()> {
        let mirror = self.mirror.as_mut().context("the mirror is not running")?;
        mirror.ready(&self.host).await
    }

    /// Takes the running mirror away from the node, for the test to stop.
    pub fn take_mirror(&mut self) -> Result<Mirror> {
        self.mirror.take().context("the mirror is not running")
    }

    /// Restarts the containerd beneath the mirror.
    pub async fn restart_containerd(&mut self) -> Result<()> {
        self.containerd.restart(&self.host).await
    }

    /// Pulls an image by its tag.
    pub async fn pull(&self, image: &Image) -> Result<()> {
        self.pull_as(image, &image.by_tag()).await
    }

    /// Pulls an image as a kubelet does, and checks that all of it has arrived.
    pub async fn pull_as(&self, image: &Image, reference: &str) -> Result<()> {
        self.containerd.cri.pull(reference).await?;
        let (held, all) = (self.containerd.holds(image), image.blobs.len() + 1);
        anyhow::ensure!(
            held == all,
            "{reference}: {held} of {all} blobs after the pull"
        );
        Ok(())
    }

    /// Waits until this node's mirror finds every part of the image: it has come to know who has
    /// it. The node must not have it itself.
    pub async fn finds(&self, image: &Image) -> Result<()> {
        let what = format!(
            "{} to find {} at its peers",
            self.host.address,
            image.by_tag()
        );
        let mut paths = image.paths();
        wait::until(&what, async || {
            while let Some(path) = paths.last() {
                if self.ask(image, path)? != 200 {
                    return Ok(false);
                }
                paths.pop();
            }
            Ok(true)
        })
        .await
    }

    fn ask(&self, image: &Image, path: &str) -> Result<u16> {
        let mirror = self.mirror.as_ref().context("the mirror is not running")?;
        let path = format!("{path}?ns={}", image.registry);
        self.host.request("HEAD", mirror.registry(), &path)
    }
}
