//! A holder with a damaged layer on its disk.

use anyhow::{Result, ensure};
use e2e::{Generation, Lab, Settings, until};

use crate::ensure_nothing;

/// The size of a layer that is too large to be verified before it is sent, in bytes.
const LAYER: usize = 4 << 20;

/// Without flights, only the node itself learns of a failed pull.
pub async fn damaged_layer_costs_one_attempt(lab: Lab, containerd: Generation) -> Result<()> {
    let settings = Settings {
        mirror: &["--flights", "off"],
        ..Settings::default()
    };
    costs_one_attempt(lab, containerd, settings).await
}

/// The same with flights.
pub async fn damaged_layer_in_flights(lab: Lab, containerd: Generation) -> Result<()> {
    costs_one_attempt(lab, containerd, Settings::default()).await
}

/// The first pull fails, as there is only a damaged layer. Then the holder withdraws its layer, and the next pull succeeds.
/// The pulls of other nodes never fail, and need nothing from upstream.
async fn costs_one_attempt(lab: Lab, containerd: Generation, settings: Settings) -> Result<()> {
    let [damaged, puller, other, last] = lab.start_nodes_with(containerd, settings).await?;
    let image = lab.upstream.push("lab/app", "v1", &[LAYER])?;
    damaged.pull(&image).await?;
    damaged.containerd.damage(&image.blobs[1])?;
    puller.finds(&image).await?;

    ensure!(puller.pull(&image).await.is_err(), "it got a sound layer");
    // Nobody has requested it again.
    until("the damaged layer to be withdrawn", async || {
        Ok(damaged.metric("peili_damaged_objects_total")? == 1.0)
    })
    .await?;
    // Until then containerd tries to commit the same bytes again, and requests nothing.
    until("containerd to give up the wrong bytes", async || {
        Ok(puller.containerd.received(&image.blobs[1]).is_none())
    })
    .await?;
    puller.pull(&image).await?;

    for late in [other, last] {
        late.finds(&image).await?;
        let sent = lab.upstream.sent_during(late.pull(&image)).await?;
        ensure_nothing(sent)?;
    }
    Ok(())
}
