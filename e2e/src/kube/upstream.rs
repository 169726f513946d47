//! The registry of the cluster: over TLS at the names that references use.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::pki::Authority;
use crate::image::{Image, noise};
use crate::network::{Host, Network};
use crate::process::{self, Daemon};
use crate::registry::Registry;
use crate::tar::Tar;

/// The last part of the registry's address.
const LAST: u8 = 2;

/// What machines call the registry. The chart's own images belong to the second.
pub const NAMES: [&str; 2] = ["registry.lab", "ghcr.io"];

/// A static busybox, of the Debian package busybox-static.
const BUSYBOX: &str = "/usr/bin/busybox";

/// A registry that speaks TLS at port 443.
pub struct Upstream {
    _tls: Daemon,
    /// Holds the content. It listens without TLS too.
    registry: Registry,
}

impl Upstream {
    /// Starts it with its files in `folder`, and its logs in `logs`.
    pub async fn start(
        network: &Network,
        authority: &Authority,
        folder: &Path,
        logs: &Path,
    ) -> Result<Upstream> {
        let host = network.host("registry", LAST)?;
        let address = host.address.to_string();
        let names = [NAMES[0], NAMES[1], &address];
        authority.sign("registry", "registry", "", &names)?;
        let log = logs.join("registry.log");
        let registry = Registry::start(host, 5000, folder, log).await?;
        let config = folder.join("tls.yml");
        let settings = json!({
            "version": "0.1",
            "log": { "level": "warn" },
            "storage": { "filesystem": { "rootdirectory": registry.storage() } },
            "http": {
                "addr": ":443",
                "tls": {
                    "certificate": authority.path("registry.crt"),
                    "key": authority.path("registry.key"),
                },
            },
        });
        fs::write(&config, settings.to_string())?;
        let mut serve = registry.host().command("docker-registry");
        serve.arg("serve").arg(&config);
        let mut tls = Daemon::spawn("docker-registry", &mut serve, &logs.join("tls.log"))?;
        let port = (registry.host().address, 443).into();
        let answers = async || registry.host().connect(port).map(|_| true);
        tls.until("the registry to listen", answers).await?;
        Ok(Upstream {
            _tls: tls,
            registry,
        })
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        self.registry.host()
    }

    /// Bytes that its host has sent so far.
    pub fn sent(&self) -> Result<u64> {
        self.host().sent()
    }

    /// Puts an image with layers of noise of these sizes (bytes) there. A container of it sleeps.
    pub fn push(&self, repository: &str, tag: &str, layers: &[usize]) -> Result<Image> {
        let busybox = fs::read(BUSYBOX)
            .with_context(|| format!("{BUSYBOX}: install the package busybox-static"))?;
        let mut tars = vec![Tar::default().program("bin/busybox", &busybox)];
        for (index, &size) in layers.iter().enumerate() {
            let content = noise(&format!("{repository}:{tag} {index}"), size);
            let tar = if index == 0 {
                tars.remove(0)
            } else {
                Tar::default()
            };
            tars.push(tar.file(&format!("layer{index}"), &content));
        }
        let run = json!({ "Entrypoint": ["/bin/busybox", "sleep", "1000000"] });
        self.store(repository, tag, tars, &run)
    }

    /// Puts an image of one program there.
    pub fn push_program(&self, repository: &str, tag: &str, program: &Path) -> Result<Image> {
        let content =
            fs::read(program).with_context(|| format!("{} cannot be read", program.display()))?;
        let tar = Tar::default().program("program", &content);
        self.store(
            repository,
            tag,
            vec![tar],
            &json!({ "Entrypoint": ["/program"] }),
        )
    }

    fn store(&self, repository: &str, tag: &str, tars: Vec<Tar>, run: &Value) -> Result<Image> {
        let image = Image::of_layers(NAMES[0], repository, tag, tars, run);
        self.registry.store(&image)?;
        Ok(image)
    }

    /// Copies an OCI archive there, digests unchanged.
    pub fn push_archive(&self, archive: &Path, repository: &str, tag: &str) -> Result<()> {
        let address = self.host().address;
        let mut copy = self.host().command("skopeo");
        copy.args([
            "copy",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
        ])
        .arg("--insecure-policy")
        .arg(format!("oci-archive:{}", archive.display()))
        .arg(format!("docker://{address}:443/{repository}:{tag}"));
        process::output(&mut copy)
            .with_context(|| format!("{} could not be pushed", archive.display()))?;
        Ok(())
    }

    /// The path of a blob at a mirror.
    pub fn blob_path(image: &Image, index: usize) -> String {
        let (repository, digest) = (&image.repository, &image.blobs[index].digest);
        format!("/v2/{repository}/blobs/{digest}?ns={}", image.registry)
    }
}
