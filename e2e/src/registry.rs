//! The upstream: a real registry, from the Debian package docker-registry.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::gate::Gate;
use crate::image::{Blob, Image};
use crate::network::Host;
use crate::process::Daemon;

/// A registry on a host of its own, which keeps its content in files.
pub struct Registry {
    running: Option<(Gate, Daemon)>,
    /// Dropped after what runs on it.
    host: Host,
    port: u16,
    storage: PathBuf,
}

impl Registry {
    /// Starts a registry on the host, with its files in `folder`.
    pub async fn start(host: Host, port: u16, folder: &Path, log: PathBuf) -> Result<Registry> {
        fs::create_dir_all(folder)?;
        let (config, socket) = (folder.join("registry.yml"), folder.join("socket"));
        let storage = folder.join("storage");
        let settings = format!(
            "version: 0.1\nlog: {{level: warn}}\nhttp: {{net: unix, addr: '{}'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n",
            socket.display(),
            storage.display(),
        );
        fs::write(&config, settings)?;
        let mut serve = host.command("docker-registry");
        serve.arg("serve").arg(&config);
        let mut daemon = Daemon::spawn("docker-registry", &mut serve, &log)?;
        let gate = Gate::start(&host, port, socket)?;
        let address = SocketAddr::from((host.address, port));
        let answers = async || Ok(host.request("GET", address, "/v2/")? == 200);
        daemon.until("the registry to answer", answers).await?;
        Ok(Registry {
            running: Some((gate, daemon)),
            host,
            port,
            storage,
        })
    }

    /// Stops the registry: connections are refused from now on.
    pub async fn stop(&mut self) -> Result<()> {
        let Some((gate, daemon)) = self.running.take() else {
            return Ok(());
        };
        gate.stop().await;
        daemon.stop().await
    }

    /// Puts an image of layers of these sizes (bytes) into the registry.
    pub fn push(&self, repository: &str, tag: &str, layers: &[usize]) -> Result<Image> {
        let image = Image::generate(&self.name(), repository, tag, layers);
        self.store(&image)
            .with_context(|| format!("{} could not be pushed", image.by_tag()))?;
        Ok(image)
    }

    /// `host:port`, or `host` alone for port 80: as references name this registry.
    pub fn name(&self) -> String {
        match self.port {
            80 => self.host.address.to_string(),
            port => format!("{}:{port}", self.host.address),
        }
    }

    /// As options and hosts.toml name this registry.
    pub fn url(&self) -> String {
        format!("http://{}", self.name())
    }

    /// How many bytes the registry's host sends while something is done.
    pub async fn sent_during(&self, work: impl Future<Output = Result<()>>) -> Result<u64> {
        let before = self.host.sent()?;
        work.await?;
        Ok(self.host.sent()? - before)
    }

    /// What its clients come through.
    pub fn gate(&self) -> Result<&Gate> {
        let (gate, _) = self.running.as_ref().context("the registry is stopped")?;
        Ok(gate)
    }

    /// How many bytes of content the registry gives while something is done, in the bodies of
    /// answers.
    pub async fn given_during(&self, work: impl Future<Output = Result<()>>) -> Result<u64> {
        let before = self.gate()?.sent();
        work.await?;
        Ok(self.gate()?.sent() - before)
    }

    /// Where the registry runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The folder of its content, which another registry may serve too.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// Writes the image as the registry itself would: it looks its files up at each request.
    pub fn store(&self, image: &Image) -> Result<()> {
        let root = self.storage.join("docker/registry/v2");
        let repository = root.join("repositories").join(&image.repository);
        for blob in image.blobs.iter().chain([&image.manifest]) {
            let hex = blob.hex();
            let folder = root.join("blobs/sha256").join(&hex[..2]).join(hex);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("data"), &blob.bytes)?;
        }
        for blob in &image.blobs {
            link(&repository.join("_layers/sha256").join(blob.hex()), blob)?;
        }
        let (manifest, tag) = (
            &image.manifest,
            repository.join("_manifests/tags").join(&image.tag),
        );
        link(
            &repository
                .join("_manifests/revisions/sha256")
                .join(manifest.hex()),
            manifest,
        )?;
        link(&tag.join("index/sha256").join(manifest.hex()), manifest)?;
        link(&tag.join("current"), manifest)
    }
}

fn link(folder: &Path, to: &Blob) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("link"), &to.digest)?;
    Ok(())
}
