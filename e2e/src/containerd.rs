//! A separate containerd for each node.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cri::Cri;
use crate::image::{Blob, Image};
use crate::lab::Settings;
use crate::network::Host;
use crate::process::{self, Daemon};
use crate::site::Site;

/// The environment variable with the folder of [`Generation::Given`].
const GIVEN: &str = "PEILI_E2E_CONTAINERD";

/// A containerd release that nodes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    V1_6,
    V1_7,
    V2,
    /// The one named by `cargo xtask test --containerd`.
    Given,
}

impl Generation {
    /// The folder of its programs.
    fn programs(self) -> Result<PathBuf> {
        let debian = |name| Ok(Site::get()?.containerd(name).join("usr/bin"));
        let programs = match self {
            Generation::V1_6 => debian("1.6"),
            Generation::V1_7 => debian("1.7"),
            Generation::V2 => debian("2.x"),
            Generation::Given => std::env::var_os(GIVEN).map(PathBuf::from).with_context(|| {
                format!("{GIVEN} names no folder: cargo xtask test --containerd DIR sets it")
            }),
        }?;
        if !programs.join("containerd").exists() {
            bail!(
                "no containerd in {}: cargo xtask test puts it there, or --containerd names another folder",
                programs.display()
            );
        }
        Ok(programs)
    }

    /// Whether this is containerd 1, whose configuration has other tables than that of containerd 2.
    fn is_1(self) -> Result<bool> {
        match self {
            Generation::V1_6 | Generation::V1_7 => Ok(true),
            Generation::V2 => Ok(false),
            Generation::Given => {
                let containerd = self.programs()?.join("containerd");
                let version = process::output(Command::new(containerd).arg("--version"))?;
                is_version_1(&version)
                    .with_context(|| format!("containerd says {version:?} for a version"))
            }
        }
    }
}

/// Parses `containerd <module> <version> <revision>`. Some builds put a `v` before the version.
fn is_version_1(output: &str) -> Option<bool> {
    let version = output.split_whitespace().nth(2)?.trim_start_matches('v');
    let (major, _) = version.split_once('.')?;
    Some(major.parse::<u32>().ok()? == 1)
}

/// One node's containerd: its files, and its process while it runs.
pub struct Containerd {
    generation: Generation,
    folder: PathBuf,
    /// The text of its configuration file.
    config: String,
    log: PathBuf,
    daemon: Option<Daemon>,
    runs_containers: bool,
    pub cri: Cri,
}

impl Containerd {
    /// Starts a containerd on the host, with all its files in `folder`, and waits until it answers
    /// the CRI.
    pub async fn start(
        generation: Generation,
        settings: &Settings,
        host: &Host,
        folder: &Path,
        log: PathBuf,
    ) -> Result<Containerd> {
        fs::create_dir_all(folder.join("certs.d"))?;
        let config = config(generation.is_1()?, settings, folder);
        fs::write(folder.join("config.toml"), &config)?;
        let cri = Cri::new(&folder.join("containerd.sock"))?;
        let folder = folder.to_owned();
        let mut containerd = Containerd {
            generation,
            folder,
            config,
            log,
            daemon: None,
            runs_containers: settings.runs_containers,
            cri,
        };
        containerd.restart(host).await?;
        Ok(containerd)
    }

    /// Starts it, or restarts it if it runs.
    pub async fn restart(&mut self, host: &Host) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop().await?;
        }
        let program = self.generation.programs()?.join("containerd");
        let mut serve = if self.runs_containers {
            host.runtime(program)
        } else {
            host.command(program)
        };
        serve.arg("--config").arg(self.folder.join("config.toml"));
        let daemon = self
            .daemon
            .insert(Daemon::spawn("containerd", &mut serve, &self.log)?);
        let answers = async || self.cri.images().await.map(|_| true);
        daemon.until("containerd to answer the CRI", answers).await
    }

    /// Kills it.
    pub fn kill(&self) -> Result<()> {
        let daemon = self.daemon.as_ref();
        daemon.context("containerd is not running")?.kill()
    }

    /// Kills it and waits until it has ended.
    pub fn kill_and_wait(&mut self) {
        self.daemon = None;
    }

    /// Whether it has ended unexpectedly.
    pub fn has_ended(&mut self) -> Result<bool> {
        self.daemon.as_mut().map_or(Ok(false), Daemon::has_ended)
    }

    /// The socket of its gRPC services.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    /// The folder of its hosts.toml files.
    pub fn hosts(&self) -> PathBuf {
        self.folder.join("certs.d")
    }

    /// Fails if its configuration file has changed since the first start.
    pub fn ensure_config_untouched(&self) -> Result<()> {
        let now = fs::read_to_string(self.folder.join("config.toml"))?;
        ensure!(now == self.config, "config.toml was changed to:\n{now}");
        Ok(())
    }

    /// The root of its content store.
    pub fn content(&self) -> PathBuf {
        self.folder.join("root/io.containerd.content.v1.content")
    }

    /// The number of the image's blobs in the content store, its manifest included.
    pub fn holds(&self, image: &Image) -> usize {
        let blobs = self.content().join("blobs/sha256");
        let held = |hex: &str| blobs.join(hex).exists();
        image
            .blobs
            .iter()
            .chain([&image.manifest])
            .filter(|blob| held(blob.hex()))
            .count()
    }

    /// Changes a byte of a blob on disk, as a failing disk does.
    pub fn damage(&self, blob: &Blob) -> Result<()> {
        let path = self.content().join("blobs/sha256").join(blob.hex());
        let file = fs::OpenOptions::new().write(true).open(&path);
        let file = file.with_context(|| format!("{} not opened", path.display()))?;
        let middle = blob.bytes.len() / 2;
        file.write_all_at(&[!blob.bytes[middle]], middle as u64)?;
        Ok(())
    }

    /// The bytes received of a blob. `None`: it is not being pulled.
    pub fn received(&self, blob: &Blob) -> Option<u64> {
        if let Ok(whole) = fs::metadata(self.content().join("blobs/sha256").join(blob.hex())) {
            return Some(whole.len());
        }
        let ingests = fs::read_dir(self.content().join("ingest")).ok()?;
        let of_blob = |folder: &PathBuf| {
            let reference = fs::read_to_string(folder.join("ref"));
            reference.is_ok_and(|reference| reference.ends_with(blob.hex()))
        };
        let mut folders = ingests.filter_map(|ingest| Some(ingest.ok()?.path()));
        let data = fs::metadata(folders.find(of_blob)?.join("data"));
        data.ok().map(|data| data.len())
    }

    /// Its command-line client, in the namespace of the CRI.
    pub fn ctr(&self, host: &Host) -> Result<std::process::Command> {
        let mut ctr = host.command(self.generation.programs()?.join("ctr"));
        ctr.arg("--address").arg(self.socket());
        ctr.args(["--namespace", "k8s.io"]);
        Ok(ctr)
    }

    /// Imports an image from an archive, as `ctr images import` does.
    pub fn import(&self, host: &Host, image: &Image) -> Result<()> {
        let archive = self.folder.join("import.tar");
        fs::write(&archive, image.archive())?;
        process::output(self.ctr(host)?.args(["images", "import"]).arg(&archive))
            .with_context(|| format!("{} could not be imported", image.by_tag()))?;
        fs::remove_file(&archive)?;
        Ok(())
    }
}

/// The configuration: everything under `folder`, and no plugin that could access anything outside or is missing. The
/// plugins that are left out need devices, other file systems or the machine's own sockets.
fn config(is_1: bool, settings: &Settings, folder: &Path) -> String {
    let folder = folder.display();
    let (version, images, runtime) = if is_1 {
        (2, "io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.cri")
    } else {
        (
            3,
            "io.containerd.cri.v1.images",
            "io.containerd.cri.v1.runtime",
        )
    };
    let docker = if settings.lists_config_paths {
        format!(":{folder}/docker/certs.d")
    } else {
        String::new()
    };
    let layers = if is_1 {
        format!("'{images}'.containerd")
    } else {
        format!("'{images}'")
    };
    let discard = if settings.discards_layers {
        format!("[plugins.{layers}]\ndiscard_unpacked_layers = true\n")
    } else {
        String::new()
    };
    let more = settings.containerd;
    format!(
        "version = {version}
root = '{folder}/root'
state = '{folder}/state'
disabled_plugins = [
  'io.containerd.nri.v1.nri',
  'io.containerd.snapshotter.v1.blockfile',
  'io.containerd.snapshotter.v1.btrfs',
  'io.containerd.snapshotter.v1.devmapper',
  'io.containerd.snapshotter.v1.erofs',
  'io.containerd.snapshotter.v1.zfs',
]
[grpc]
address = '{folder}/containerd.sock'
[plugins.'io.containerd.internal.v1.opt']
path = '{folder}/opt'
[plugins.'{images}'.registry]
config_path = '{folder}/certs.d{docker}'
[plugins.'{runtime}'.cni]
bin_dir = '{folder}/cni/bin'
conf_dir = '{folder}/cni/net.d'
{discard}{more}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read() {
        let debian = "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6\n";
        assert_eq!(is_version_1(debian), Some(true));
        let own = "containerd github.com/containerd/containerd/v2 v2.4.2 \n";
        assert_eq!(is_version_1(own), Some(false));
        assert_eq!(is_version_1("containerd"), None);
    }
}
