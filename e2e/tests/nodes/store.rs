//! The embedded store, with a client that knows nothing of mirrors.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::{Host, Image, Lab, Mirror, Registry, Store, output, until};

use crate::LAYERS;

/// The path of a request contains the registry without a colon, so these use the scheme's port.
const HTTP: u16 = 80;

/// skopeo pulls the same name and tag of two registries through one mirror, and gets each registry's own image; again
/// when the registries are gone.
pub async fn skopeo_pulls_from_two_registries(lab: Lab) -> Result<()> {
    let mut registries = [
        lab.add_registry("one", 3, HTTP).await?,
        lab.add_registry("two", 4, HTTP).await?,
    ];
    let push = |registry: &Registry| registry.push("lab/app", "v1", &LAYERS);
    let images = [push(&registries[0])?, push(&registries[1])?];

    let host = lab.add_host("node", 21)?;
    let urls = registries.each_ref().map(Registry::url);
    let (store, data) = (lab.folder("store")?, lab.folder("data")?);
    let store = Store::Layout(&store);
    let mut mirror = Mirror::start(
        &host,
        &store,
        &urls,
        &data,
        host.address,
        &[],
        &lab.log("peili"),
    )?;
    mirror.ready(&host).await?;

    for image in &images {
        copy(&host, &mirror, image, &lab.folder("first")?)?;
    }
    for registry in &mut registries {
        registry.stop().await?;
    }
    for image in &images {
        copy(&host, &mirror, image, &lab.folder("again")?)?;
    }
    mirror.stop().await
}

/// An image is copied through the mirror. Then its signature is available to cosign's requests, although the registry
/// is gone and the signature was never requested before.
pub async fn signature_outlives_the_registry(lab: Lab) -> Result<()> {
    let mut registry = lab.add_registry("one", 3, HTTP).await?;
    let image = registry.push("lab/app", "v1", &LAYERS)?;
    let tag = format!("{}.sig", image.manifest.digest.replace(':', "-"));
    let signature = registry.push("lab/app", &tag, &[300])?;

    let host = lab.add_host("node", 21)?;
    let (store, data) = (lab.folder("store")?, lab.folder("data")?);
    let (store, urls) = (Store::Layout(&store), [registry.url()]);
    let log = lab.log("peili");
    let mut mirror = Mirror::start(&host, &store, &urls, &data, host.address, &[], &log)?;
    mirror.ready(&host).await?;
    copy(&host, &mirror, &image, &lab.folder("copy")?)?;
    until("the registry to be asked for the payload", async || {
        let payload = signature.blobs.last().context("a layer")?;
        Ok(registry.gate()?.sent_of(payload) == payload.bytes.len() as u64)
    })
    .await?;
    registry.stop().await?;

    let parts = signature
        .paths()
        .into_iter()
        .zip([&signature.manifest; 2].into_iter().chain(&signature.blobs));
    for (path, part) in parts {
        let path = path.replacen("/v2/", &format!("/v2/{}/", registry.name()), 1);
        until(&path, async || {
            Ok(host.get(mirror.registry(), &path)?.0 == 200)
        })
        .await?;
        let (_, bytes) = host.get(mirror.registry(), &path)?;
        ensure!(bytes == part.bytes, "{path}: {} bytes", bytes.len());
    }
    mirror.stop().await
}

/// Copies an image through the mirror into a folder and checks that it is this very image.
fn copy(host: &Host, mirror: &Mirror, image: &Image, to: &Path) -> Result<()> {
    let mut skopeo = host.command("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--src-tls-verify=false"]);
    skopeo.arg(format!("docker://{}/{}", mirror.registry(), image.by_tag()));
    output(skopeo.arg(format!("dir:{}", to.display())))?;

    let manifest = fs::read(to.join("manifest.json"))?;
    ensure!(
        manifest == image.manifest.bytes,
        "another image than {}",
        image.by_tag()
    );
    for blob in &image.blobs {
        let copied = fs::read(to.join(blob.hex())).with_context(|| blob.digest.clone())?;
        ensure!(copied == blob.bytes, "{} differs", blob.digest);
    }
    Ok(())
}
