//! Clients on hosts without containerd, set up according to docs/install.md.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::{Host, Image, Lab, Mirror, Registry, Store, output};

use crate::{ensure_all_of, ensure_nothing};

/// The path of a request contains the registry without a colon, so this one uses the scheme's port.
const HTTP: u16 = 80;

/// The layers of an image that is much larger than the hosts' background traffic, and fast to generate.
const LAYERS: [usize; 2] = [1 << 20, 300];

/// Podman pulls by the registry's own name. The registry sends the image once, to the mirror, and to Podman itself when
/// the mirror is gone.
pub async fn podman_pulls_through_registries_conf(lab: Lab) -> Result<()> {
    pulls_through_registries_conf(&lab, podman).await
}

/// Does the same with skopeo.
pub async fn skopeo_pulls_through_registries_conf(lab: Lab) -> Result<()> {
    pulls_through_registries_conf(&lab, skopeo).await
}

/// The environment of a client.
struct Setup {
    host: Host,
    registries_conf: PathBuf,
}

/// Pulls an image into an empty folder and checks that it is this very image.
type Pull = fn(&Setup, &Image, &Path) -> Result<()>;

async fn pulls_through_registries_conf(lab: &Lab, pull: Pull) -> Result<()> {
    let registry = lab.add_registry("registry", 3, HTTP).await?;
    let image = registry.push("lab/app", "v1", &LAYERS)?;
    let later = registry.push("lab/app", "v2", &LAYERS)?;
    let host = lab.add_host("node", 21)?;
    let (store, data) = (lab.folder("store")?, lab.folder("data")?);
    let mut mirror = Mirror::start(
        &host,
        &Store::Layout(&store),
        &[registry.url()],
        &data,
        host.address,
        &[],
        &lab.log("peili"),
    )?;
    mirror.ready(&host).await?;
    let setup = Setup {
        registries_conf: registries_conf(lab, &registry, &mirror)?,
        host,
    };
    let pulled = async |image: &Image, to: &str| pull(&setup, image, &lab.folder(to)?);

    let sent = registry.sent_during(pulled(&image, "first")).await?;
    ensure_all_of(&image, sent)?;
    let sent = registry.sent_during(pulled(&image, "second")).await?;
    ensure_nothing(sent)?;

    mirror.stop().await?;
    let sent = registry.sent_during(pulled(&later, "later")).await?;
    ensure_all_of(&later, sent)
}

/// The file from docs/install.md, for the registry of the lab.
fn registries_conf(lab: &Lab, registry: &Registry, mirror: &Mirror) -> Result<PathBuf> {
    let (name, mirror) = (registry.name(), mirror.registry());
    let file = lab.folder("etc")?.join("registries.conf");
    let text = format!(
        "[[registry]]\nlocation = '{name}'\ninsecure = true\n\
         [[registry.mirror]]\nlocation = '{mirror}/{name}'\ninsecure = true\n"
    );
    fs::write(&file, text)?;
    Ok(file)
}

/// Mounts its first argument at /mnt, invisible to others because `ip netns exec` has given it separate mounts, and
/// runs Podman there: Podman refuses long paths.
const PODMAN: &str = r#"mount --bind "$0" /mnt && cd /mnt &&
    exec podman --root /mnt/root --runroot /mnt/run --storage-driver vfs "$@""#;

fn podman(setup: &Setup, image: &Image, folder: &Path) -> Result<()> {
    let podman = |arguments: &[&str]| {
        let mut command = setup.host.command("sh");
        command.env("CONTAINERS_REGISTRIES_CONF", &setup.registries_conf);
        command.args(["-c", PODMAN]).arg(folder);
        output(command.args(arguments))
    };
    let tag = image.by_tag();
    podman(&["pull", "--quiet", &tag])?;
    let found = podman(&["image", "inspect", "--format", "{{.Digest}}", &tag])?;
    ensure!(found.trim() == image.manifest.digest, "{tag} is {found}");
    Ok(())
}

fn skopeo(setup: &Setup, image: &Image, folder: &Path) -> Result<()> {
    let mut copy = setup.host.command("skopeo");
    copy.arg("--insecure-policy");
    // Debian 12's skopeo does not read the file's name from the environment.
    copy.arg("--registries-conf").arg(&setup.registries_conf);
    copy.args(["copy", &format!("docker://{}", image.by_tag())]);
    output(copy.arg(format!("dir:{}", folder.display())))?;
    let manifest = fs::read(folder.join("manifest.json")).context("skopeo left no manifest")?;
    ensure!(
        manifest == image.manifest.bytes,
        "another image than {}",
        image.by_tag()
    );
    Ok(())
}
