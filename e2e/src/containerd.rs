//! A containerd of its own for each node.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cri::Cri;
use crate::image::{Blob, Image};
use crate::network::Host;
use crate::process::{self, Daemon};
use crate::site::Site;

/// The containerd releases in use, by what they behave like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    V1_6,
    V1_7,
    V2,
}

impl Generation {
    fn name(self) -> &'static str {
        match self {
            Generation::V1_6 => "1.6",
            Generation::V1_7 => "1.7",
            Generation::V2 => "2.x",
        }
    }

    /// Where its programs lie.
    fn programs(self) -> Result<PathBuf> {
        let programs = Site::get()?.containerd(self.name()).join("usr/bin");
        if !programs.join("containerd").exists() {
            bail!(
                "no containerd in {}: cargo xtask test puts it there",
                programs.display()
            );
        }
        Ok(programs)
    }
}

/// One node's containerd: its files, and its process while it runs.
pub struct Containerd {
    generation: Generation,
    folder: PathBuf,
    log: PathBuf,
    daemon: Option<Daemon>,
    pub cri: Cri,
}

impl Containerd {
    /// Starts a containerd on the host, with all its files in `folder` and `more` at the end of its
    /// configuration, and waits until it answers the CRI.
    pub async fn start(
        generation: Generation,
        more: &str,
        host: &Host,
        folder: &Path,
        log: PathBuf,
    ) -> Result<Containerd> {
        fs::create_dir_all(folder.join("certs.d"))?;
        let config = config(generation, folder) + more;
        fs::write(folder.join("config.toml"), config)?;
        let cri = Cri::new(&folder.join("containerd.sock"))?;
        let folder = folder.to_owned();
        let mut containerd = Containerd {
            generation,
            folder,
            log,
            daemon: None,
            cri,
        };
        containerd.restart(host).await?;
        Ok(containerd)
    }

    /// Starts it, anew if it runs.
    pub async fn restart(&mut self, host: &Host) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop().await?;
        }
        let mut serve = host.command(self.generation.programs()?.join("containerd"));
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

    /// The socket of its gRPC services.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    /// The folder of hosts.toml files that it reads.
    pub fn hosts(&self) -> PathBuf {
        self.folder.join("certs.d")
    }

    /// The root of its content store.
    pub fn content(&self) -> PathBuf {
        self.folder.join("root/io.containerd.content.v1.content")
    }

    /// How many of the image's blobs, its manifest included, the content store holds.
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

    /// How many bytes of a blob have come; `None` while it is not asked for.
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

    /// Imports an image from an archive, as `ctr images import` does.
    pub fn import(&self, host: &Host, image: &Image) -> Result<()> {
        let archive = self.folder.join("import.tar");
        fs::write(&archive, image.archive())?;
        let mut ctr = host.command(self.generation.programs()?.join("ctr"));
        ctr.arg("--address")
            .arg(self.socket())
            .args(["--namespace", "k8s.io"]);
        process::output(ctr.args(["images", "import"]).arg(&archive))
            .with_context(|| format!("{} could not be imported", image.by_tag()))?;
        fs::remove_file(&archive)?;
        Ok(())
    }
}

/// Everything under `folder`, and nothing loaded that could reach out of it or is not there: the
/// plugins that are left out need devices, other file systems or the machine's own sockets.
fn config(generation: Generation, folder: &Path) -> String {
    let folder = folder.display();
    let (version, images, runtime) = match generation {
        Generation::V1_6 | Generation::V1_7 => {
            (2, "io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.cri")
        }
        Generation::V2 => (
            3,
            "io.containerd.cri.v1.images",
            "io.containerd.cri.v1.runtime",
        ),
    };
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
config_path = '{folder}/certs.d'
[plugins.'{runtime}'.cni]
bin_dir = '{folder}/cni/bin'
conf_dir = '{folder}/cni/net.d'
"
    )
}
