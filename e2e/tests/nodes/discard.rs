//! Nodes whose containerd removes layers once they are unpacked, as on EKS, Bottlerocket and Talos.

use anyhow::{Result, bail, ensure};
use e2e::{Generation, Image, Lab, Settings};

use crate::{LAYERS, ensure_all_of, ensure_nothing};

/// Retains layers however full the disk is that the test runs on.
const RETAIN: &[&str] = &["--retain-for", "10m", "--retain-disk-percent", "100"];

/// A node as EKS sets it up discards layers and has a list of folders for `config_path`. The second
/// node takes nothing from upstream, the third takes nothing after the holder's containerd was
/// restarted, and the configuration of no containerd is touched.
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

/// Without discarding, containerd 2 pulls by its transfer service, which takes a list of folders
/// for the name of one. It ignores hosts.toml without a word: it does not ask the mirror, which has
/// the image, but the registry, which is gone.
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
    // By HTTPS, where hosts.toml says HTTP.
    let asked = format!("https://{}/", lab.upstream.name());
    let text = format!("{error:#}");
    ensure!(text.contains(&asked), "failed for another reason: {text}");
    let last = node.metric("peili_own_client_last_request_timestamp_seconds")?;
    ensure!(last == 0.0, "the mirror was asked");
    Ok(())
}
