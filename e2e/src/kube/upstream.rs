//! The registry of the cluster: over TLS at the names in references.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::pki::Authority;
use crate::image::{Image, noise};
use crate::network::{Host, Network};
use crate::process::{self, Daemon};
use crate::registry::{HTPASSWD, Registry};
use crate::tar::Tar;

/// A registry as machines know it.
pub struct Known {
    host: &'static str,
    /// The last part of its address.
    last: u8,
    pub names: &'static [&'static str],
    /// Whether all access needs the password of [`USER`](crate::registry::USER).
    is_private: bool,
}

/// The registry of all images except private ones. The chart's own images belong to its second name.
pub const PUBLIC: Known = Known {
    host: "registry",
    last: 2,
    names: &["registry.lab", "ghcr.io"],
    is_private: false,
};

pub const PRIVATE: Known = Known {
    host: "private",
    last: 3,
    names: &["private.lab"],
    is_private: true,
};

/// A static busybox, from the Debian package busybox-static.
const BUSYBOX: &str = "/usr/bin/busybox";

/// A registry with TLS at port 443.
pub struct Upstream {
    known: Known,
    _tls: Daemon,
    /// The registry with the content. It also listens without TLS.
    registry: Registry,
}

impl Upstream {
    /// Starts it with its files in a folder of its own in `folder`, and its logs in `logs`.
    pub async fn start(
        known: Known,
        network: &Network,
        authority: &Authority,
        folder: &Path,
        logs: &Path,
    ) -> Result<Upstream> {
        let name = known.host;
        let host = network.host(name, known.last)?;
        let address = host.address.to_string();
        let names = [known.names, &[address.as_str()]].concat();
        authority.sign(name, name, "", &names)?;
        let folder = folder.join(name);
        let log = logs.join(format!("{name}.log"));
        let registry = Registry::start(host, 5000, &folder, log).await?;
        let config = folder.join("tls.yml");
        let mut settings = json!({
            "version": "0.1",
            "log": { "level": "warn" },
            "storage": { "filesystem": { "rootdirectory": registry.storage() } },
            "http": {
                "addr": ":443",
                "tls": {
                    "certificate": authority.path(&format!("{name}.crt")),
                    "key": authority.path(&format!("{name}.key")),
                },
            },
        });
        if known.is_private {
            let file = folder.join("htpasswd");
            fs::write(&file, HTPASSWD)?;
            settings["auth"] = json!({ "htpasswd": { "realm": name, "path": file } });
        }
        fs::write(&config, settings.to_string())?;
        let mut serve = registry.host().command("docker-registry");
        serve.arg("serve").arg(&config);
        let mut tls = Daemon::spawn(
            "docker-registry",
            &mut serve,
            &logs.join(format!("{name}-tls.log")),
        )?;
        let port = (registry.host().address, 443).into();
        let answers = async || registry.host().connect(port).map(|_| true);
        tls.until("the registry to listen", answers).await?;
        Ok(Upstream {
            known,
            _tls: tls,
            registry,
        })
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        self.registry.host()
    }

    /// A line of `/etc/hosts` for its names.
    pub fn hosts_line(&self) -> String {
        format!("{} {}\n", self.host().address, self.known.names.join(" "))
    }

    /// The bytes that its host has sent so far.
    pub fn sent(&self) -> Result<u64> {
        self.host().sent()
    }

    /// Pushes an image with layers of random bytes of these sizes. A container of it sleeps.
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

    /// Pushes an image of one program.
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
        let image = Image::of_layers(self.known.names[0], repository, tag, tars, run);
        self.registry.store(&image)?;
        Ok(image)
    }

    /// Pushes an OCI archive, with unchanged digests.
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
