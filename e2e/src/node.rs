//! A node: a host with a containerd and a mirror.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tls::testing::NodeFiles;

use crate::certificates;
use crate::containerd::{Containerd, Generation};
use crate::image::{Blob, Image};
use crate::lab::Settings;
use crate::mirror::{self, Mirror, Store};
use crate::network::Host;
use crate::wait;

/// The header by which a mirror recognises its containerd.
const SECRET: &str = "X-Peili-Node-Secret";

/// A node of the cluster.
pub struct Node {
    pub containerd: Containerd,
    mirror: Option<Mirror>,
    /// Dropped after what runs on it.
    pub host: Host,
    /// The registries that are mirrored, as URLs.
    registries: Vec<String>,
    /// The node from which all others bootstrap: its address, or a name.
    first: String,
    settings: Settings,
    /// The file of the secret by which the mirror recognises its containerd.
    secret: Option<PathBuf>,
    /// The file of the mirror's network keys, if it has any.
    network_keys: Option<PathBuf>,
    /// The folder of the mirror's certificates, if it has any.
    peer_tls: Option<PathBuf>,
    data: PathBuf,
    log: PathBuf,
}

impl Node {
    /// Starts the containerd, and the mirror without waiting for it: the first is ready only once there are others.
    pub async fn start(
        host: Host,
        generation: Generation,
        settings: Settings,
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
        let containerd =
            Containerd::start(generation, &settings, &host, folder, containerd_log).await?;
        let secret = settings.secret.then(|| folder.join("secret"));
        let knows: Vec<_> = secret.iter().flat_map(|file| by_secret(file)).collect();
        if settings.plain {
            mirror::configure_without(&containerd.hosts(), registries)?;
        } else {
            mirror::configure(&containerd.hosts(), registries, host.address, &knows)?;
        }
        let mut node = Node {
            host,
            containerd,
            mirror: None,
            registries: registries.to_vec(),
            first: first.to_string(),
            settings,
            secret,
            network_keys: settings.network_keys.map(|_| folder.join("network-key")),
            peer_tls: settings.peer_tls.map(|_| folder.join("peer-tls")),
            data: folder.join("data"),
            log: logs.join(format!("{name}-peili.log")),
        };
        if let Some(keys) = settings.network_keys {
            node.replace_network_keys(keys)?;
        }
        if let Some(files) = settings.peer_tls {
            node.replace_certificates(files)?;
        }
        if !settings.plain {
            node.start_mirror()?;
        }
        Ok(node)
    }

    /// Starts the mirror.
    pub fn start_mirror(&mut self) -> Result<()> {
        let serve = match self.settings.descriptors {
            Some(most) => {
                let mut limited = self.host.command("prlimit");
                limited.arg(format!("--nofile={most}:{most}"));
                limited.arg(mirror::peili()?);
                limited
            }
            None => self.host.command(mirror::peili()?),
        };
        self.start_mirror_by(serve)
    }

    /// Starts the mirror with a command that runs the program.
    pub fn start_mirror_by(&mut self, serve: Command) -> Result<()> {
        std::fs::create_dir_all(&self.data)?;
        let store = Store::Containerd(&self.containerd);
        let registries = &self.registries;
        let mut more: Vec<_> = self
            .secret
            .iter()
            .flat_map(|file| by_secret(file))
            .collect();
        if let Some(file) = &self.network_keys {
            more.extend(["--network-key-file".as_ref(), file.as_os_str()]);
        }
        if let Some(folder) = &self.peer_tls {
            more.extend(["--peer-tls-dir".as_ref(), folder.as_os_str()]);
        }
        more.extend(self.settings.mirror.iter().map(OsStr::new));
        let name = format!("node-{}", self.host.address.octets()[3]);
        if self.settings.names {
            more.extend(["--node-name".as_ref(), OsStr::new(&name)]);
        }
        let hosts = self.containerd.hosts();
        if self.settings.checks {
            more.extend([
                "--containerd-registry-config-path".as_ref(),
                hosts.as_os_str(),
            ]);
        }
        let (address, data, log) = (self.host.address, &self.data, &self.log);
        let mirror = Mirror::start_by(
            serve,
            address,
            &store,
            registries,
            data,
            &self.first,
            &more,
            log,
        )?;
        self.mirror = Some(mirror);
        Ok(())
    }

    /// Waits until the mirror is ready, if there is one.
    pub async fn ready(&mut self) -> Result<()> {
        if self.settings.plain {
            return Ok(());
        }
        let mirror = self.mirror.as_mut().context("the mirror is not running")?;
        mirror.ready(&self.host).await
    }

    /// Makes the mirror bootstrap from another host, from its next start on.
    pub fn bootstrap_from(&mut self, host: &str) {
        host.clone_into(&mut self.first);
    }

    /// Gives the mirror a file of network keys, from its next start on. It does not exist yet.
    pub fn have_network_keys(&mut self) -> PathBuf {
        let file = self.data.with_file_name("network-key");
        self.network_keys.insert(file).clone()
    }

    /// Gives the mirror other network keys, in the way Kubernetes replaces a Secret.
    pub fn replace_network_keys(&self, keys: &str) -> Result<()> {
        let file = self.network_keys.as_ref().context("the node has no keys")?;
        let next = file.with_extension("next");
        std::fs::write(&next, keys)?;
        Ok(std::fs::rename(&next, file)?)
    }

    /// Gives the mirror other certificates, in the way Kubernetes replaces a Secret.
    pub fn replace_certificates(&self, files: &NodeFiles) -> Result<()> {
        let folder = self.peer_tls.as_ref().context("it has no certificates")?;
        certificates::publish(folder, files)
    }

    /// Takes the running mirror from the node, so that the test can stop it.
    pub fn take_mirror(&mut self) -> Result<Mirror> {
        self.mirror.take().context("the mirror is not running")
    }

    /// The running mirror.
    pub fn running_mirror(&mut self) -> Option<&mut Mirror> {
        self.mirror.as_mut()
    }

    /// Restarts the containerd beneath the mirror.
    pub async fn restart_containerd(&mut self) -> Result<()> {
        self.containerd.restart(&self.host).await
    }

    /// Pulls an image by its tag.
    pub async fn pull(&self, image: &Image) -> Result<()> {
        self.pull_as(image, &image.by_tag()).await
    }

    /// Pulls an image with a pull secret.
    pub async fn pull_with(&self, image: &Image, secret: (&str, &str)) -> Result<()> {
        let cri = &self.containerd.cri;
        cri.pull_with(&image.by_tag(), Some(secret)).await?;
        self.ensure_holds(image)
    }

    /// Pulls an image as a kubelet does, and checks that it has arrived completely.
    pub async fn pull_as(&self, image: &Image, reference: &str) -> Result<()> {
        self.containerd.cri.pull(reference).await?;
        self.ensure_holds(image)
    }

    fn ensure_holds(&self, image: &Image) -> Result<()> {
        let reference = image.by_tag();
        let (held, all) = (self.containerd.holds(image), image.blobs.len() + 1);
        anyhow::ensure!(
            held == all,
            "{reference}: {held} of {all} blobs after the pull"
        );
        Ok(())
    }

    /// Waits until this node's mirror finds every part of the image: it has learned of the holder. The node must not
    /// have it itself.
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

    /// Requests a part of an image from the mirror as the node's containerd does. Returns the status.
    pub fn ask(&self, image: &Image, path: &str) -> Result<u16> {
        let path = format!("{path}?ns={}", image.registry);
        let secret = self.secret.as_ref().map(std::fs::read_to_string);
        let secret = secret.transpose()?;
        let secret = secret.as_ref().map(|text| (SECRET, text.trim()));
        let headers = secret.as_slice();
        let mirror = self.mirror()?.registry();
        self.host.request_with("HEAD", mirror, &path, headers)
    }

    /// Requests a blob from this node's mirror, from another host or the node itself, but not as a containerd. Returns
    /// the status and the body.
    pub fn asked_by(&self, client: &Host, image: &Image, blob: &Blob) -> Result<(u16, Vec<u8>)> {
        let (repository, digest) = (&image.repository, &blob.digest);
        let path = format!("/v2/{repository}/blobs/{digest}?ns={}", image.registry);
        client.get(self.mirror()?.registry(), &path)
    }

    /// The status of an answer of this node's mirror to a client on another host, or on the node itself.
    pub fn status_for(&self, client: &Host, path: &str, headers: &[(&str, &str)]) -> Result<u16> {
        let mirror = self.mirror()?.registry();
        client.request_with("GET", mirror, path, headers)
    }

    /// The address of the mirror's registry.
    pub fn registry(&self) -> Result<SocketAddr> {
        Ok(self.mirror()?.registry())
    }

    /// The file of the secret by which the mirror recognises its containerd, if it has one.
    pub fn secret(&self) -> Option<&Path> {
        self.secret.as_deref()
    }

    /// The folder that the mirror keeps over restarts.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A metric of the mirror's, summed over its labels.
    pub fn metric(&self, name: &str) -> Result<f64> {
        self.mirror()?.metric(&self.host, name)
    }

    /// Kills the mirror.
    pub fn kill_mirror(&self) -> Result<()> {
        self.mirror()?.kill()
    }

    fn mirror(&self) -> Result<&Mirror> {
        self.mirror.as_ref().context("the mirror is not running")
    }
}

/// The option with a secret's file.
fn by_secret(file: &Path) -> [&OsStr; 2] {
    ["--node-secret-file".as_ref(), file.as_os_str()]
}
