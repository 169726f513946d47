//! Tags and private images: what the mirrors ask upstream, and what they send to which clients.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::{Blob, Generation, Image, Lab, Node, Settings, Treatment, USER, until};

use crate::{LAYERS, ensure_nothing, flights};

const CHECKS: Settings = Settings {
    containerd: "",
    discards_layers: false,
    lists_config_paths: false,
    runs_containers: false,
    mirror: &["--tag-max-age", "0s"],
    names: false,
    secret: true,
    network_keys: None,
    peer_tls: None,
    checks: true,
    descriptors: None,
    plain: false,
};

/// The most that upstream may send of an image whose layers come from peers, in percent.
const MANIFESTS: u64 = 2;

/// How much longer a pull may take than one whose checks are answered at once. A check that is awaited to its end takes
/// several times as long.
const WAIT: Duration = Duration::from_secs(3);

/// A tag that was moved upstream resolves to the new image on each node, and its layers come from peers. While the
/// upstream is gone, it has its last target.
pub async fn moved_tag_is_fresh(mut lab: Lab, containerd: Generation) -> Result<()> {
    let [first, second, third] = lab.start_nodes_with(containerd, CHECKS).await?;
    let old = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    first.pull(&old).await?;
    second.finds(&old).await?;
    let given = lab.upstream.given_during(second.pull(&old)).await?;
    flights::ensure_at_most(MANIFESTS, &[&old], given)?;

    let mut new = Image::generate(&lab.upstream.name(), "lab/app", "v2", &LAYERS);
    new.tag = old.tag.clone();
    lab.upstream.store(&new)?;
    first.pull(&new).await?;
    second.finds(&new).await?;
    let given = lab.upstream.given_during(second.pull(&new)).await?;
    flights::ensure_at_most(MANIFESTS, &[&new], given)?;

    third.finds(&new).await?;
    lab.upstream.stop().await?;
    third.pull(&new).await
}

/// A private image is pulled only with its pull secret, even on the nodes that hold it. Its manifest comes from the
/// upstream and its layers from peers. A client that puts its layers into an image of its own gets nothing. While the
/// upstream is gone, public images are available.
pub async fn private_image_needs_its_secret(mut lab: Lab, containerd: Generation) -> Result<()> {
    lab.upstream.guard("open").await?;
    let mut nodes: [_; 4] = lab.start_nodes_with(containerd, CHECKS).await?;
    let private = lab.upstream.push("private/app", "v1", &LAYERS)?;
    let open = lab.upstream.push("open/app", "v1", &LAYERS)?;
    let [holder, second, third, _] = &nodes;
    holder.pull_with(&private, USER).await?;
    holder.pull(&open).await?;
    second.finds(&open).await?;
    let given = lab
        .upstream
        .given_during(second.pull_with(&private, USER))
        .await?;
    flights::ensure_at_most(MANIFESTS, &[&private], given)?;

    for node in [holder, second, third] {
        ensure_unauthorized(node, &private).await?;
    }
    let outside = lab.add_host("outside", 41)?;
    for node in &nodes {
        for client in [&node.host, &outside] {
            ensure_hidden(node, client, &private)?;
        }
    }
    names_of_others_open_nothing(&lab, &nodes, &private).await?;
    ensure_hidden(&nodes[0], &outside, &private)?;
    public_images_outlive_the_upstream(&mut lab, &mut nodes, &private, &open).await
}

async fn ensure_unauthorized(node: &Node, image: &Image) -> Result<()> {
    let Err(error) = node.containerd.cri.pull(&image.by_tag()).await else {
        bail!(
            "{} got {} without credentials",
            node.host.address,
            image.by_tag()
        );
    };
    // Of the mirror's 404 and the registry's 401, containerd 2 reports the first.
    let text = format!("{error:#}");
    let is_refused = ["authorization failed", "not found"]
        .iter()
        .any(|t| text.contains(t));
    ensure!(is_refused, "failed for another reason: {text}");
    Ok(())
}

/// The headers of a peer, and of a follower of a flight.
const PEER: (&str, &str) = ("X-Spegel-Mirrored", "true");
const FOLLOWER: (&str, &str) = ("X-Peili-Flight", "1-1");

/// Fails if the mirror sends a manifest or a config of the image, however it is requested.
fn ensure_hidden(node: &Node, client: &e2e::Host, image: &Image) -> Result<()> {
    let (registry, host) = (&image.registry, image.registry.split(':').next());
    let (host, config) = (host.context("a host")?, &image.blobs[0].digest);
    let underscored = registry.replace(':', "_");
    let repository = &image.repository;
    let manifest = &image.manifest.digest;
    let mut paths = vec![format!(
        "/v2/{repository}/manifests/{}?ns={registry}",
        image.tag
    )];
    for name in [repository.as_str(), "open/app", "open/other", "app"] {
        for what in [
            format!("manifests/{manifest}"),
            format!("blobs/{manifest}"),
            format!("blobs/{config}"),
            format!("manifests/{config}"),
        ] {
            for ns in [
                registry,
                host,
                "quay.io",
                "docker.io",
                "QUAY.IO:443",
                "127.0.0.1:5000",
            ] {
                paths.push(format!("/v2/{name}/{what}?ns={ns}"));
            }
            paths.push(format!("/v2/{name}/{what}"));
            paths.push(format!("/v2/{underscored}/{name}/{what}"));
            paths.push(format!("/v2/{host}/{name}/{what}"));
        }
    }
    let own = format!("/v2/{repository}/");
    let of_headers = |path: &String, headers: &[(&str, &str)]| {
        let status = node.status_for(client, path, headers)?;
        let address = node.host.address;
        ensure!(
            status >= 400,
            "{status} to {path} with {headers:?} at {address}"
        );
        Ok(())
    };
    for path in &paths {
        for headers in [&[][..], &[PEER], &[("Range", "bytes=1-")]] {
            of_headers(path, headers)?;
        }
    }
    // A follower has to wait a moment.
    for path in paths.iter().filter(|path| path.contains(&own)).take(4) {
        of_headers(path, &[PEER, FOLLOWER])?;
    }
    Ok(())
}

/// A public image with a layer of the private one, which the registry does not have in that repository.
async fn names_of_others_open_nothing(lab: &Lab, nodes: &[Node; 4], private: &Image) -> Result<()> {
    let [holder, _, third, last] = nodes;
    let layer = &private.blobs[1];
    let thief = private.naming("open/thief", layer);
    lab.upstream.store(&thief)?;
    lab.upstream.unlink("open/thief", layer)?;
    // Its containerd has the layer already.
    holder.pull(&thief).await?;
    println!(
        "labels of a layer that another image names: {}",
        labels(holder, layer)?
    );
    if third.containerd.cri.pull(&thief.by_tag()).await.is_ok() {
        bail!("the layer of a private image was given to who named it");
    }
    let path = format!(
        "/v2/open/thief/blobs/{}?ns={}",
        layer.digest, thief.registry
    );
    // Until containerd has closed it, a follower is admitted to a download that has no byte and never gets one.
    until("the failed download to be over", async || {
        let status = third.status_for(&last.host, &path, &[PEER, FOLLOWER])?;
        Ok(status == 404)
    })
    .await?;
    for node in nodes {
        for client in [&holder.host, &last.host] {
            for headers in [&[][..], &[PEER], &[PEER, FOLLOWER]] {
                let status = node.status_for(client, &path, headers)?;
                ensure!(status == 404, "{status} to {path} at {}", node.host.address);
            }
        }
    }
    Ok(())
}

/// The origins of a blob in containerd.
fn labels(node: &Node, blob: &Blob) -> Result<String> {
    let mut list = node.containerd.ctr(&node.host)?;
    list.args(["content", "list"]);
    let list = e2e::output(&mut list)?;
    let line = list.lines().find(|line| line.starts_with(&blob.digest));
    let labels = line
        .context("the blob is listed")?
        .split_whitespace()
        .last();
    Ok(labels.unwrap_or_default().to_owned())
}

async fn public_images_outlive_the_upstream(
    lab: &mut Lab,
    nodes: &mut [Node; 4],
    private: &Image,
    open: &Image,
) -> Result<()> {
    let proofs = nodes[0].data().join("repositories.json");
    until("what is private to be on disk", async || {
        let text = std::fs::read_to_string(&proofs)?;
        Ok(text.contains("private/app") && text.contains("open/app"))
    })
    .await?;
    for node in nodes.iter_mut() {
        node.take_mirror()?.stop().await?;
    }
    lab.upstream.stop().await?;
    for node in nodes.iter_mut() {
        node.start_mirror()?;
    }
    for node in nodes.iter_mut() {
        node.ready().await?;
    }
    let new = &nodes[3];
    new.finds(open).await?;
    new.pull(open).await?;
    for secret in [None, Some(USER)] {
        let pulled = new
            .containerd
            .cri
            .pull_with(&private.by_tag(), secret)
            .await;
        ensure!(pulled.is_err(), "a private image without its registry");
    }
    ensure_hidden(&nodes[0], &nodes[3].host, private)?;
    ensure_hidden(&nodes[3], &nodes[3].host, private)
}

/// If a registry limits, fails or hangs when the mirror asks, a pull takes only a moment longer. If it does so for all
/// clients, public images still come from peers.
pub async fn failing_registry_costs_a_moment(lab: Lab, containerd: Generation) -> Result<()> {
    let [first, second] = lab.start_nodes_with(containerd, CHECKS).await?;
    let push = |name: &str| lab.upstream.push(name, "v1", &LAYERS);
    let timed = async |image: &Image| {
        let since = Instant::now();
        first.pull(image).await?;
        anyhow::Ok(since.elapsed())
    };
    let public = push("lab/app")?;
    let alone = timed(&public).await?;
    println!("cold, with answers: {alone:?}");
    let gate = lab.upstream.gate()?;
    for (name, treatment) in [
        ("lab/limited", Treatment::Refused(429)),
        ("lab/failed", Treatment::Refused(500)),
        ("lab/hung", Treatment::Held),
    ] {
        let image = push(name)?;
        gate.treat_everybody(true, treatment);
        let time = timed(&image).await?;
        println!("cold, {treatment:?}: {time:?}");
        ensure!(
            time < alone + WAIT,
            "{treatment:?}: {time:?}, else {alone:?}"
        );
    }
    gate.treat_all_alike();

    second.finds(&public).await?;
    for treatment in [Treatment::Refused(429), Treatment::Refused(500)] {
        gate.treat_everybody(false, treatment);
        let given = lab.upstream.given_during(second.pull(&public)).await?;
        ensure_nothing(given)?;
        second.containerd.cri.remove(&public.by_tag()).await?;
    }
    Ok(())
}
