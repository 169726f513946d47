//! Pulls during faults.

use std::slice;

use anyhow::{Context, Result, ensure};
use e2e::{Generation, Image, Lab, Node, until};

use crate::{LAYERS, ensure_all_of, ensure_nothing};

/// A layer that takes seconds at the rate below, so that it can be interrupted in the middle.
const LONG_LAYER: usize = 12 << 20;

/// The bandwidth of a holder, in Mbit/s.
const SLOW: u32 = 20;

/// The bytes of the long layer that have come when its holder is cut off.
const MIDDLE: u64 = 4 << 20;

/// A holder is cut off while it sends, without notice; another node has the image too. The pull continues from there,
/// and nothing comes from upstream.
pub async fn cut_off_holder_is_replaced(lab: Lab, containerd: Generation) -> Result<()> {
    let [one, other, puller] = lab.start_nodes(containerd).await?;
    let image = lab.upstream.push("lab/app", "v1", &[LONG_LAYER])?;
    let holders = [one, other];
    for holder in &holders {
        holder.pull(&image).await?;
    }
    puller.finds(&image).await?;
    let pull = pull_and_cut_sender(&puller, &image, &holders);
    let sent = lab.upstream.sent_during(pull).await?;
    ensure_nothing(sent)
}

/// The only holder is cut off while it sends: the rest comes from upstream.
pub async fn cut_off_only_holder_costs_no_pull(lab: Lab, containerd: Generation) -> Result<()> {
    let [holder, puller] = lab.start_nodes(containerd).await?;
    let image = lab.upstream.push("lab/app", "v1", &[LONG_LAYER])?;
    holder.pull(&image).await?;
    puller.finds(&image).await?;
    let pull = pull_and_cut_sender(&puller, &image, slice::from_ref(&holder));
    let sent = lab.upstream.sent_during(pull).await?;
    ensure!(
        sent < image.size(),
        "{sent} bytes came from upstream: all of it, not the rest"
    );
    Ok(())
}

/// Pulls the image and cuts off the holder that has sent it up to the middle.
async fn pull_and_cut_sender(puller: &Node, image: &Image, holders: &[Node]) -> Result<()> {
    let cut = async { in_the_middle(holders).await?.host.cut() };
    let pull = async { puller.pull(image).await.context("with its source cut off") };
    tokio::try_join!(cut, pull).map(drop)
}

/// Slows the holders down, and waits until one has sent the long layer up to the middle.
async fn in_the_middle(holders: &[Node]) -> Result<&Node> {
    let mut before = Vec::new();
    for holder in holders {
        holder.host.limit_sending(SLOW)?;
        before.push(holder.host.sent()?);
    }
    let mut sender = None;
    until("a holder to be in the middle", async || {
        for (holder, before) in holders.iter().zip(&before) {
            if holder.host.sent()? - before >= MIDDLE {
                sender = Some(holder);
            }
        }
        Ok(sender.is_some())
    })
    .await?;
    sender.context("a sender")
}

/// The upstream is unreachable: tags and digests of a node can still be pulled.
pub async fn upstream_gone(lab: Lab, containerd: Generation) -> Result<()> {
    let [holder, by_tag, by_digest] = lab.start_nodes(containerd).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    holder.pull(&image).await?;
    by_tag.finds(&image).await?;
    by_digest.finds(&image).await?;

    lab.upstream.host().cut()?;
    by_tag.pull_as(&image, &image.by_tag()).await?;
    by_digest.pull_as(&image, &image.by_digest()).await
}

/// The node's own mirror is not running: the pull goes upstream.
pub async fn mirror_stopped(lab: Lab, containerd: Generation) -> Result<()> {
    let [holder, mut other] = lab.start_nodes(containerd).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    holder.pull(&image).await?;
    other.finds(&image).await?;

    other.take_mirror()?.stop().await?;
    let sent = lab.upstream.sent_during(other.pull(&image)).await?;
    ensure_all_of(&image, sent)
}

/// The node's own mirror is asked to end in the middle of a transfer: it does not break the pull.
pub async fn mirror_stopped_mid_transfer(lab: Lab, containerd: Generation) -> Result<()> {
    let [holder, mut puller] = lab.start_nodes(containerd).await?;
    let image = lab.upstream.push("lab/app", "v1", &[LONG_LAYER])?;
    holder.pull(&image).await?;
    puller.finds(&image).await?;

    let mirror = puller.take_mirror()?;
    let stop = async {
        in_the_middle(slice::from_ref(&holder)).await?;
        mirror.stop().await
    };
    let pull = async { puller.pull(&image).await.context("with its mirror stopped") };
    tokio::try_join!(stop, pull).map(drop)
}

/// A holder's mirror is restarted: its content is found again.
pub async fn mirror_restarted(lab: Lab, containerd: Generation) -> Result<()> {
    let [mut holder, other] = lab.start_nodes(containerd).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    holder.pull(&image).await?;

    holder.take_mirror()?.stop().await?;
    holder.start_mirror()?;
    holder.ready().await?;
    other.finds(&image).await?;
    let sent = lab.upstream.sent_during(other.pull(&image)).await?;
    ensure_nothing(sent)
}

/// A node's containerd is restarted under its mirror: its earlier content is still served, and so is what it pulls from
/// then on.
pub async fn containerd_restarted(lab: Lab, containerd: Generation) -> Result<()> {
    let [mut holder, other] = lab.start_nodes(containerd).await?;
    let earlier = lab.upstream.push("lab/earlier", "v1", &LAYERS)?;
    let later = lab.upstream.push("lab/later", "v1", &LAYERS)?;
    holder.pull(&earlier).await?;
    other.finds(&earlier).await?;

    holder.restart_containerd().await?;
    holder.ready().await?;
    holder.pull(&later).await?;
    other.finds(&later).await?;
    let pulls = async { tokio::try_join!(other.pull(&earlier), other.pull(&later)).map(drop) };
    let sent = lab.upstream.sent_during(pulls).await?;
    ensure_nothing(sent)
}
