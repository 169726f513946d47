//! Pulls without faults.

use anyhow::Result;
use e2e::{Generation, Image, Lab, Settings, until};
use futures::future::try_join_all;

use crate::{LAYERS, ensure_all_of, ensure_nothing};

/// The first node pulls from upstream; the others get no byte from there.
pub async fn others_take_nothing_from_upstream(lab: Lab, containerd: Generation) -> Result<()> {
    let [first, others @ ..] = lab.start_nodes::<4>(containerd).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;

    let sent = lab.upstream.sent_during(first.pull(&image)).await?;
    ensure_all_of(&image, sent)?;

    others[0].finds(&image).await?;
    let pulls = async {
        try_join_all(others.iter().map(|node| node.pull(&image)))
            .await
            .map(drop)
    };
    let sent = lab.upstream.sent_during(pulls).await?;
    ensure_nothing(sent)
}

/// An imported image, which no registry has, is available to all.
pub async fn imported_image_is_served(lab: Lab, containerd: Generation) -> Result<()> {
    // To the mirror, a registry that does not have an image may be hiding it.
    let settings = Settings {
        mirror: &["--tag-policy", "peers", "--private", "share"],
        ..Settings::default()
    };
    let [holder, other] = lab.start_nodes_with(containerd, settings).await?;
    let image = Image::generate(&lab.upstream.name(), "lab/imported", "v1", &LAYERS);

    holder.containerd.import(&holder.host, &image)?;
    other.finds(&image).await?;
    other.pull(&image).await
}

/// An image that its only holder has removed is pulled from upstream, at the first attempt.
pub async fn removed_image_is_pulled_upstream(lab: Lab, containerd: Generation) -> Result<()> {
    let [holder, other] = lab.start_nodes(containerd).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    holder.pull(&image).await?;
    other.finds(&image).await?;

    holder.containerd.cri.remove(&image.by_tag()).await?;
    until("the content to be removed", async || {
        Ok(holder.containerd.holds(&image) == 0)
    })
    .await?;
    let sent = lab.upstream.sent_during(other.pull(&image)).await?;
    ensure_all_of(&image, sent)
}
