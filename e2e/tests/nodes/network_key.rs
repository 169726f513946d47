//! Nodes that share a key, and nodes without this key.

use anyhow::{Result, ensure};
use e2e::{Generation, Host, Image, Lab, Mirror, Node, Settings, Store, until};

use crate::{LAYERS, ensure_nothing};

/// Three keys of 32 or more characters.
const OLD: &str = "4c1d0c5a2be74f0e9a7f8b1c2d3e4f50";
const BOTH: &str = "9f8e7d6c5b4a39281706f5e4d3c2b1a0\n4c1d0c5a2be74f0e9a7f8b1c2d3e4f50\n";
const NEW: &str = "9f8e7d6c5b4a39281706f5e4d3c2b1a0\n";
const ANOTHER: &str = "00112233445566778899aabbccddeeff";

/// The headers of a peer, of a follower of a flight, and none.
const GUISES: [&[(&str, &str)]; 3] = [
    &[],
    &[("X-Spegel-Mirrored", "true")],
    &[("X-Spegel-Mirrored", "true"), ("X-Peili-Flight", "1-1")],
];

fn settings() -> Settings {
    Settings {
        secret: true,
        network_keys: Some(OLD),
        ..Settings::default()
    }
}

/// Nodes with the key share content. A client without it, and mirrors without it or with another key, get no manifest,
/// no blob and no access over HTTP, and find no peer over libp2p.
pub async fn strangers_get_nothing(lab: Lab, containerd: Generation) -> Result<()> {
    let nodes: [_; 2] = lab.start_nodes_with(containerd, settings()).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    nodes[0].pull(&image).await?;
    shares(&lab, &nodes[1], &image).await?;

    let outside = lab.add_host("outside", 41)?;
    for node in &nodes {
        ensure_closed(node, &outside, &image)?;
        // A process on the node without the node's secret is a stranger, too.
        ensure_closed(node, &node.host, &image)?;
    }
    let folder = lab.folder("keys")?;
    let another = folder.join("another");
    std::fs::write(&another, ANOTHER)?;
    let missing = folder.join("missing");
    let option = |file| vec!["--network-key-file".as_ref(), file];
    for (name, last, options) in [
        ("keyless", 42, vec![]),
        ("foreign", 43, option(another.as_os_str())),
        ("without", 44, option(missing.as_os_str())),
    ] {
        let host = lab.add_host(name, last)?;
        let store = lab.folder(&format!("{name}-store"))?;
        let mut stranger = Mirror::start(
            &host,
            &Store::Layout(&store),
            &[lab.upstream.url()],
            &lab.folder(&format!("{name}-data"))?,
            nodes[0].host.address,
            &options,
            &lab.log(name),
        )?;
        stranger.ready(&host).await?;
        let refusals = "peili_router_handshakes_refused_total";
        meets_nobody(&host, &stranger, &image, refusals).await?;
        stranger.stop().await?;
    }
    for node in &nodes {
        let members = node.metric("peili_router_members")?;
        ensure!(members == 2.0, "{members} members");
        ensure!(
            node.metric("peili_outside_network_refused_total")? > 0.0,
            "nobody was refused"
        );
    }
    Ok(())
}

/// Both nodes pull from each other with the old key, with both keys while one of them has only the old one, and with
/// the new one.
pub async fn keys_are_replaced_while_nodes_pull(lab: Lab, containerd: Generation) -> Result<()> {
    let nodes: [_; 2] = lab.start_nodes_with(containerd, settings()).await?;
    let steps = [(1, BOTH, 2.0), (0, BOTH, 2.0), (0, NEW, 1.0), (1, NEW, 1.0)];
    for (step, (number, keys, count)) in steps.into_iter().enumerate() {
        let node = &nodes[number];
        node.replace_network_keys(keys)?;
        let what = format!("{} to have other keys", node.host.address);
        until(&what, async || {
            Ok(node.metric("peili_network_keys")? == count)
        })
        .await?;
        let image = lab.upstream.push("lab/app", &format!("v{step}"), &LAYERS)?;
        nodes[step % 2].pull(&image).await?;
        shares(&lab, &nodes[1 - step % 2], &image).await?;
    }
    Ok(())
}

/// Checks that the node gets the image from another one.
pub(crate) async fn shares(lab: &Lab, node: &Node, image: &Image) -> Result<()> {
    node.finds(image).await?;
    let sent = lab.upstream.sent_during(node.pull(image)).await?;
    ensure_nothing(sent)
}

/// Checks that all requests of a client fail, whatever it claims to be.
pub(crate) fn ensure_closed(node: &Node, client: &Host, image: &Image) -> Result<()> {
    let mut paths = image.paths();
    for path in &mut paths {
        *path += &format!("?ns={}", image.registry);
    }
    let layer = &image.blobs[1].digest;
    paths.push(format!("/peili/v1/node?digest={layer}"));
    paths.push("/link-test".to_owned());
    for path in &paths {
        for headers in GUISES {
            let status = node.status_for(client, path, headers)?;
            ensure!(status == 404, "{status} for {path} with {headers:?}");
        }
    }
    Ok(())
}

/// Checks that a mirror on this host was refused (counted in `refusals`), has no peer, and does not find the image at
/// others.
pub(crate) async fn meets_nobody(
    host: &Host,
    stranger: &Mirror,
    image: &Image,
    refusals: &str,
) -> Result<()> {
    until("the stranger to be refused", async || {
        Ok(stranger.metric(host, refusals)? > 0.0)
    })
    .await?;
    let layer = &image.blobs[1];
    let path = format!(
        "/v2/{}/blobs/{}?ns={}",
        image.repository, layer.digest, image.registry
    );
    let (status, body) = host.get(stranger.registry(), &path)?;
    // Its own upstream has it.
    ensure!(status == 200 && body == layer.bytes, "{status}");
    for (metric, expected) in [
        (r#"peili_router_peers"#, 0.0),
        (r#"peili_router_provider_records"#, 0.0),
        (r#"peili_bytes_total{source="peer"}"#, 0.0),
    ] {
        let found = stranger.metric(host, metric)?;
        ensure!(found == expected, "{metric} is {found}");
    }
    Ok(())
}
