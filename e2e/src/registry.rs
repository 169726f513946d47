//! The upstream: a real registry, from the Debian package docker-registry.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::gate::{Gate, Guard};
use crate::image::{Blob, Image};
use crate::network::Host;
use crate::process::Daemon;

/// A user of guarded registries, with the password and its hash (bcrypt).
pub const USER: (&str, &str) = ("user", "password");
pub(crate) const HTPASSWD: &str =
    "user:$2b$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu\n";
/// The same as the value of a header.
const AUTHORIZATION: &str = "Basic dXNlcjpwYXNzd29yZA==";

/// A registry on a separate host, which keeps its content in files.
pub struct Registry {
    running: Option<(Gate, Daemon)>,
    /// Dropped after what runs on it.
    host: Host,
    port: u16,
    folder: PathBuf,
    storage: PathBuf,
    log: PathBuf,
}

impl Registry {
    /// Starts a registry on the host, with its files in `folder`.
    pub async fn start(host: Host, port: u16, folder: &Path, log: PathBuf) -> Result<Registry> {
        let mut registry = Registry {
            running: None,
            host,
            port,
            folder: folder.to_owned(),
            storage: folder.join("storage"),
            log,
        };
        registry.run(None).await?;
        Ok(registry)
    }

    /// Restarts it with a password ([`USER`]), except for repositories below the folder `public`.
    pub async fn guard(&mut self, public: &str) -> Result<()> {
        self.stop().await?;
        let guard = Guard {
            public: public.to_owned(),
            authorization: AUTHORIZATION.to_owned(),
        };
        self.run(Some(guard)).await
    }

    async fn run(&mut self, guard: Option<Guard>) -> Result<()> {
        let (folder, port) = (&self.folder, self.port);
        fs::create_dir_all(folder)?;
        let (config, socket) = (folder.join("registry.yml"), folder.join("socket"));
        let (password, expected) = match &guard {
            None => (String::new(), 200),
            Some(_) => {
                let file = folder.join("htpasswd");
                fs::write(&file, HTPASSWD)?;
                let file = file.display();
                (
                    format!("auth: {{htpasswd: {{realm: lab, path: '{file}'}}}}\n"),
                    401,
                )
            }
        };
        let settings = format!(
            "version: 0.1\nlog: {{level: warn}}\nhttp: {{net: unix, addr: '{}'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n{password}",
            socket.display(),
            self.storage.display(),
        );
        fs::write(&config, settings)?;
        // A stopped registry leaves its socket behind.
        let _ = fs::remove_file(&socket);
        let mut serve = self.host.command("docker-registry");
        serve.arg("serve").arg(&config);
        let mut daemon = Daemon::spawn("docker-registry", &mut serve, &self.log)?;
        let gate = Gate::start(&self.host, port, socket, guard)?;
        let address = SocketAddr::from((self.host.address, port));
        let answers = async || Ok(self.host.request("GET", address, "/v2/")? == expected);
        daemon.until("the registry to answer", answers).await?;
        self.running = Some((gate, daemon));
        Ok(())
    }

    /// Stops the registry: new connections are refused.
    pub async fn stop(&mut self) -> Result<()> {
        let Some((gate, daemon)) = self.running.take() else {
            return Ok(());
        };
        gate.stop().await;
        daemon.stop().await
    }

    /// Kills the registry's process. Its gate stays: connections are accepted and closed.
    pub fn kill_process(&self) -> Result<()> {
        let (_, daemon) = self.running.as_ref().context("the registry is stopped")?;
        daemon.kill()
    }

    /// Starts the registry's process again behind its gate.
    pub fn revive(&mut self) -> Result<()> {
        let (_, daemon) = self.running.as_mut().context("the registry is stopped")?;
        // A killed registry leaves its socket behind.
        let _ = fs::remove_file(self.folder.join("socket"));
        let mut serve = self.host.command("docker-registry");
        serve.arg("serve").arg(self.folder.join("registry.yml"));
        *daemon = Daemon::spawn("docker-registry", &mut serve, &self.log)?;
        Ok(())
    }

    /// Puts an image with layers of these sizes (bytes) into the registry.
    pub fn push(&self, repository: &str, tag: &str, layers: &[usize]) -> Result<Image> {
        let image = Image::generate(&self.name(), repository, tag, layers);
        self.store(&image)
            .with_context(|| format!("{} could not be pushed", image.by_tag()))?;
        Ok(image)
    }

    /// The name of this registry in references: `host:port`, or `host` alone for port 80.
    pub fn name(&self) -> String {
        match self.port {
            80 => self.host.address.to_string(),
            port => format!("{}:{port}", self.host.address),
        }
    }

    /// The URL of this registry in options and hosts.toml.
    pub fn url(&self) -> String {
        format!("http://{}", self.name())
    }

    /// The bytes that the registry's host sends during some work.
    pub async fn sent_during(&self, work: impl Future<Output = Result<()>>) -> Result<u64> {
        let before = self.host.sent()?;
        work.await?;
        Ok(self.host.sent()? - before)
    }

    /// The proxy in front of the registry.
    pub fn gate(&self) -> Result<&Gate> {
        let (gate, _) = self.running.as_ref().context("the registry is stopped")?;
        Ok(gate)
    }

    /// The bytes of content that the registry sends during some work, in the bodies of answers.
    pub async fn given_during(&self, work: impl Future<Output = Result<()>>) -> Result<u64> {
        let before = self.gate()?.sent();
        work.await?;
        Ok(self.gate()?.sent() - before)
    }

    /// The host of the registry.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The folder of its content, which another registry may serve too.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// Removes a blob from a repository: the registry no longer has it there.
    pub fn unlink(&self, repository: &str, blob: &Blob) -> Result<()> {
        let repositories = self.storage.join("docker/registry/v2/repositories");
        let link = repositories
            .join(repository)
            .join("_layers/sha256")
            .join(blob.hex());
        Ok(fs::remove_dir_all(link)?)
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
