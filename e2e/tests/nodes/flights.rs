//! Nodes that pull the same image at the same moment.

use anyhow::{Context, Result, ensure};
use e2e::{Blob, Generation, Image, Lab, Node, Settings, Treatment, until};
use futures::future::try_join_all;

use crate::{LAYERS, ensure_nothing};

/// A layer that takes a second or two at the rate below, so that nodes are in the middle of it together.
pub const LONG_LAYER: usize = 12 << 20;

/// The bandwidth of the upstream, in Mbit/s.
pub const UPLINK: u32 = 48;

/// A bandwidth at which the pull outlasts the test, in Mbit/s.
const CRAWL: u32 = 1;

/// Once over the upstream link, in percent of the image's size. The rest is for manifests, and for ranges that are
/// closed early.
const ONCE: u64 = 105;

/// Starts nodes that know each other, with a slow upstream.
pub async fn start<const N: usize>(
    lab: &Lab,
    containerd: Generation,
    settings: Settings,
) -> Result<[Node; N]> {
    let nodes = lab.start_nodes_with(containerd, settings).await?;
    for node in &nodes {
        let what = format!("{} to know all members", node.host.address);
        until(&what, async || {
            Ok(node.metric("peili_router_members")? == N as f64)
        })
        .await?;
    }
    lab.upstream.host().limit_sending(UPLINK)?;
    Ok(nodes)
}

/// Pulls the image on all the nodes at the same moment.
pub async fn pull_together<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    image: &Image,
) -> Result<()> {
    let pulls = nodes.into_iter().map(async |node| {
        let pulled = node.pull(image).await;
        pulled.with_context(|| format!("on {}", node.host.address))
    });
    try_join_all(pulls).await.map(drop)
}

/// Fails if more came from upstream than this many percent of the images.
pub fn ensure_at_most(percent: u64, images: &[&Image], given: u64) -> Result<()> {
    let size: u64 = images.iter().map(|image| image.size()).sum();
    ensure!(
        given * 100 <= size * percent,
        "upstream gave {given} bytes: {} % of {size}",
        given * 100 / size
    );
    Ok(())
}

/// Pulls a new image on all the nodes at the same moment, and fails if it crossed the upstream link more than once. Up to
/// three images are tried: where the machine stops for half a second, nodes rightly leave each other.
pub async fn ensure_pulled_once(lab: &Lab, nodes: &[Node], layers: &[usize]) -> Result<Image> {
    const TRIES: usize = 3;
    let mut costs = Vec::new();
    for number in 0..TRIES {
        let image = lab
            .upstream
            .push("lab/app", &format!("v{number}"), layers)?;
        let given = lab
            .upstream
            .given_during(pull_together(nodes, &image))
            .await?;
        match ensure_at_most(ONCE, &[&image], given) {
            Ok(()) => return Ok(image),
            Err(cost) => costs.push(cost.to_string()),
        }
    }
    anyhow::bail!("{}", costs.join("; "))
}

/// A new image crosses the upstream link once, whichever nodes request it.
pub async fn cold_pull_costs_upstream_once(lab: Lab, containerd: Generation) -> Result<()> {
    let nodes: [_; 4] = start(&lab, containerd, Settings::default()).await?;
    let layers = [2 << 20, LONG_LAYER / 2, 3 << 20, 300];
    ensure_pulled_once(&lab, &nodes, &layers).await.map(drop)
}

/// The same with more layers than containerd downloads at once, in an order of each node's own: mirrors fetch what their
/// nodes lead.
pub async fn many_layers_cost_upstream_once(lab: Lab, containerd: Generation) -> Result<()> {
    let nodes: [_; 4] = start(&lab, containerd, Settings::default()).await?;
    ensure_pulled_once(&lab, &nodes, &[1 << 20; 12]).await?;
    let mut fetched = 0.0;
    for node in &nodes {
        fetched += node.metric("peili_flights_layers_fetched_total")?;
    }
    ensure!(fetched >= 12.0, "mirrors fetched {fetched} of 12 layers");
    Ok(())
}

/// The same if containerd requests a layer in several ranges at once.
pub async fn parallel_ranges_cost_upstream_once(lab: Lab, containerd: Generation) -> Result<()> {
    let settings = Settings {
        containerd: "[plugins.'io.containerd.transfer.v1.local']\n\
            max_concurrent_downloads = 8\nconcurrent_layer_fetch_buffer = 4194304\n",
        ..Settings::default()
    };
    let nodes: [_; 3] = start(&lab, containerd, settings).await?;
    let image = ensure_pulled_once(&lab, &nodes, &[LONG_LAYER, 2 << 20]).await?;
    ensure_ranges(&lab, &image)
}

/// Fails unless the long layer was requested more than once: otherwise the test shows nothing.
fn ensure_ranges(lab: &Lab, image: &Image) -> Result<()> {
    let requests = lab.upstream.gate()?.askers(&image.blobs[1]).len();
    ensure!(requests > 1, "containerd asked by one range");
    Ok(())
}

/// Two nodes begin with different images of two: neither waits for what the other has not begun.
pub async fn opposite_order_blocks_nobody(lab: Lab, containerd: Generation) -> Result<()> {
    let nodes: [_; 2] = start(&lab, containerd, Settings::default()).await?;
    let push = |repository| lab.upstream.push(repository, "v1", &[2 << 20; 6]);
    let images = [push("lab/one")?, push("lab/two")?];
    let in_order = async |node: &Node, first: &Image, second: &Image| {
        let then = async {
            has_begun(node, first).await?;
            node.pull(second).await
        };
        tokio::try_join!(node.pull(first), then).map(drop)
    };
    let pulls = async {
        tokio::try_join!(
            in_order(&nodes[0], &images[0], &images[1]),
            in_order(&nodes[1], &images[1], &images[0]),
        )
        .map(drop)
    };
    let given = lab.upstream.given_during(pulls).await?;
    ensure_at_most(110, &images.each_ref(), given)
}

async fn has_begun(node: &Node, image: &Image) -> Result<()> {
    let asked = |blob: &Blob| node.containerd.received(blob).is_some();
    let what = format!("{} to begin {}", node.host.address, image.by_tag());
    until(&what, async || Ok(image.blobs[1..].iter().any(asked))).await
}

/// If the mirror recognises its containerd by a secret, other clients get complete content or none while a layer is
/// being received: another node, a client on the node itself, another host. No pull begins on their behalf, and they
/// wait for none.
pub async fn remote_clients_lead_and_follow_nothing(
    lab: Lab,
    containerd: Generation,
) -> Result<()> {
    only_the_puller_takes_part(lab, containerd, true).await
}

/// The same without a secret: the pull belongs to the client that began it.
pub async fn without_a_secret_nobody_else_takes_part(
    lab: Lab,
    containerd: Generation,
) -> Result<()> {
    only_the_puller_takes_part(lab, containerd, false).await
}

async fn only_the_puller_takes_part(lab: Lab, containerd: Generation, secret: bool) -> Result<()> {
    let settings = Settings {
        secret,
        ..Settings::default()
    };
    let [puller, other] = start(&lab, containerd, settings).await?;
    let outside = lab.add_host("outside", 41)?;
    let image = lab.upstream.push("lab/app", "v1", &[LONG_LAYER])?;
    let layer = &image.blobs[1];
    let sought = || -> Result<f64> {
        let name = "peili_flights_decisions_total";
        Ok(puller.metric(name)? + other.metric(name)?)
    };
    let asks = async || -> Result<bool> {
        for (asked, host) in [
            (&puller, &outside),
            (&puller, &other.host),
            (&puller, &puller.host),
            (&other, &other.host),
        ] {
            let before = sought()?;
            let (status, body) = asked.asked_by(host, &image, layer)?;
            let to = asked.host.address;
            match status {
                200 => ensure!(body == layer.bytes, "{} bytes of {to}", body.len()),
                404 => {}
                _ => anyhow::bail!("{status} of {to}"),
            }
            ensure!(sought()? == before, "{to} sought it for {}", host.address);
        }
        Ok(puller.containerd.received(layer) < Some(layer.bytes.len() as u64))
    };
    let meanwhile = async {
        in_the_middle(&puller, layer).await?;
        lab.upstream.host().limit_sending(CRAWL)?;
        ensure!(asks().await?, "the layer was complete before the end");
        lab.upstream.host().limit_sending(UPLINK)
    };
    let pulls = async { tokio::try_join!(puller.pull(&image), meanwhile).map(drop) };
    let given = lab.upstream.given_during(pulls).await?;
    ensure_at_most(ONCE, &[&image], given)
}

/// Waits until a node asks upstream for a blob.
pub async fn asks_upstream(lab: &Lab, node: &Node, blob: &Blob) -> Result<()> {
    let what = format!("{} to ask upstream", node.host.address);
    until(&what, async || {
        let askers = lab.upstream.gate()?.askers(blob);
        Ok(askers.contains(&node.host.address))
    })
    .await
}

/// Waits until a node has half of a blob.
pub async fn in_the_middle(node: &Node, blob: &Blob) -> Result<()> {
    let half = blob.bytes.len() as u64 / 2;
    let what = format!("{} to have half of {}", node.host.address, blob.digest);
    until(&what, async || {
        Ok(node.containerd.received(blob) >= Some(half))
    })
    .await
}

/// Without flights, existing content is served, and new content is pulled by each node.
pub async fn plain_mirror_without_flights(lab: Lab, containerd: Generation) -> Result<()> {
    let settings = Settings {
        mirror: &["--flights", "off"],
        ..Settings::default()
    };
    let nodes: [_; 3] = lab.start_nodes_with(containerd, settings).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    let (gate, layer) = (lab.upstream.gate()?, &image.blobs[1]);
    gate.treat(&nodes[0].host, layer, Treatment::Held);
    let second = async {
        asks_upstream(&lab, &nodes[0], layer).await?;
        nodes[1].pull(&image).await?;
        gate.treat_all_alike();
        Ok(())
    };
    tokio::try_join!(nodes[0].pull(&image), second)?;
    let askers = gate.askers(layer);
    let both = [0, 1].map(|node: usize| nodes[node].host.address);
    ensure!(askers == both, "{askers:?} pulled it from upstream");

    nodes[2].finds(&image).await?;
    let warm = lab.upstream.sent_during(nodes[2].pull(&image)).await?;
    ensure_nothing(warm)?;
    for node in &nodes {
        ensure!(node.metric("peili_flights_decisions_total")? == 0.0);
    }
    Ok(())
}

/// The bandwidth of the slow node's link, in Mbit/s.
const SLOW: u32 = 8;

/// A node with a much slower link than the others knows this before anything is pulled.
pub async fn slow_node_is_known(lab: Lab, containerd: Generation) -> Result<()> {
    let [mut slow, others @ ..] = lab.start_nodes::<4>(containerd).await?;
    slow.host.limit_sending(SLOW)?;
    slow.host.limit_receiving(SLOW)?;
    slow.take_mirror()?.stop().await?;
    slow.start_mirror()?;
    slow.ready().await?;
    let link = "peili_flights_link_bytes_per_second";
    let is_slow = "peili_flights_slow";
    let known = async || Ok(slow.metric(is_slow)? == 1.0);
    until("the slow node to be known", known).await?;
    let carries = slow.metric(link)? / f64::from(SLOW) / 125_000.0;
    ensure!((0.2..2.0).contains(&carries), "{carries} of its link");
    for other in &others {
        ensure!(other.metric(is_slow)? == 0.0, "{}", other.host.address);
    }
    Ok(())
}
