//! Nodes whose containerd removes layers once they are unpacked, as on EKS, Bottlerocket and Talos.

use anyhow::{Result, bail, ensure};
use e2e::{Generation, Image, Lab, Settings};

use crate::{LAYERS, ensure_all_of, ensure_nothing};

/// Retains layers however full the disk of the test machine is.
const RETAIN: &[&str] = &["--retain-for", "10m", "--retain-disk-percent", "100"];

/// A node with EKS's settings discards layers and has a list of folders for `config_path`. The second node gets nothing
/// from upstream, the third gets nothing after the holder's containerd was restarted, and no containerd's configuration
/// is changed.
pub async fn eks_node_shares_untouched(lab: Lab, containerd: Generation) -> Result<()> {
    let settings = Settings {
        discards_layers: true,
        lists_config_paths: true,
        mirror: RETAIN,
        ..Settings::default()
    };
    let [mut holder, second, third] = lab.start_nodes_with(containerd, settings).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    let sent = lab.upstream.sent_during(holder.pull(&image)).await?;
    ensure_all_of(&image, sent)?;

    second.finds(&image).await?;
    let sent = lab.upstream.sent_during(second.pull(&image)).await?;
    ensure_nothing(sent)?;

    second.kill_mirror()?;
    holder.restart_containerd().await?;
    holder.ready().await?;
    third.finds(&image).await?;
    let sent = lab.upstream.sent_during(third.pull(&image)).await?;
    ensure_nothing(sent)?;
    for node in [&holder, &second, &third] {
        node.containerd.ensure_config_untouched()?;
    }
    Ok(())
}

/// Without discarding, containerd 2 pulls through its transfer service, which treats a list of folders as one name. It
/// silently ignores hosts.toml: it does not ask the mirror, which has the image, but the registry, which is gone.
pub async fn transfer_service_ignores_lists(mut lab: Lab, containerd: Generation) -> Result<()> {
    let settings = Settings {
        lists_config_paths: true,
        ..Settings::default()
    };
    let [node] = lab.start_nodes_with(containerd, settings).await?;
    let image = Image::generate(&lab.upstream.name(), "lab/imported", "v1", &LAYERS);
    node.containerd.import(&node.host, &image)?;
    lab.upstream.stop().await?;
    let Err(error) = node.pull(&image).await else {
        bail!("containerd read the hosts.toml behind a list of folders");
    };
    // It uses https, although hosts.toml says http.
    let asked = format!("https://{}/", lab.upstream.name());
    let text = format!("{error:#}");
    ensure!(text.contains(&asked), "failed for another reason: {text}");
    let last = node.metric("peili_own_client_last_request_timestamp_seconds")?;
    ensure!(last == 0.0, "the mirror was asked");
    Ok(())
}
