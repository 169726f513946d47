//! `peili pull`: a measured trial pull on a node with a real containerd.

use anyhow::{Context as _, Result, ensure};
use e2e::{Generation, Image, Lab, Node, Settings, peili};
use serde_json::Value;

use crate::{LAYERS, ensure_nothing};

/// Nodes whose mirrors recognise their containerd, and know the registry's host.
const SETTINGS: Settings = Settings {
    containerd: "",
    discards_layers: false,
    lists_config_paths: false,
    runs_containers: false,
    mirror: &["--private=share", "--page-access=anywhere"],
    names: false,
    secret: true,
    network_keys: None,
    peer_tls: None,
    checks: true,
    descriptors: None,
    plain: false,
};

/// The report of the node's trial pull of an image.
fn trial_pull(node: &Node, image: &Image) -> Result<Value> {
    let mut pull = node.host.command(peili()?);
    pull.args(["pull", &image.by_tag(), "--output=json"]);
    pull.arg("--registry-endpoint")
        .arg(node.registry()?.to_string());
    pull.arg("--containerd-registry-config-path")
        .arg(node.containerd.hosts());
    pull.arg("--node-secret-file")
        .arg(node.secret().context("the node has a secret")?);
    let output = pull.output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "peili pull failed: {told}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The layers come from the node that has them, with its address. The pulling node keeps nothing, but shows the pull.
pub async fn trial_pull_names_the_source_and_keeps_nothing(
    lab: Lab,
    containerd: Generation,
) -> Result<()> {
    let [holder, other] = lab.start_nodes_with(containerd, SETTINGS).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    holder.pull(&image).await?;
    other.finds(&image).await?;
    let mut report = Value::Null;
    let sent = lab.upstream.sent_during(async {
        report = trial_pull(&other, &image)?;
        Ok(())
    });
    ensure_nothing(sent.await?)?;
    let layers = report["objects"].as_array().context("objects")?;
    let layers: Vec<_> = layers.iter().filter(|o| o["kind"] == "layer").collect();
    ensure!(layers.len() == LAYERS.len(), "{report}");
    let address = holder.registry()?.to_string();
    for layer in layers {
        ensure!(
            layer["source"]["node"] == address,
            "{layer} is not from {address}"
        );
        ensure!(layer["rate"].as_u64() > Some(0), "{layer}");
    }
    ensure!(report["upstream"] == 0, "{report}");
    ensure!(
        other.containerd.holds(&image) == 0,
        "the node kept some of it"
    );
    let (_, status) = other
        .host
        .get((other.host.address, 9090).into(), "/api/v1/status")?;
    let status: Value = serde_json::from_slice(&status)?;
    let objects = status["trials"][0]["objects"].as_array();
    let objects = objects.with_context(|| status["trials"].to_string())?;
    let from_peer = objects.iter().filter(|o| o["source"]["kind"] == "peer");
    let shown = from_peer.filter(|o| o["is_complete"] == true && o["is_manifest"] == false);
    ensure!(shown.count() > LAYERS.len(), "{objects:?}");
    Ok(())
}

/// Content without a holder comes from the registry, with the reason.
pub async fn trial_pull_says_why_the_registry_was_asked(
    lab: Lab,
    containerd: Generation,
) -> Result<()> {
    let [node] = lab.start_nodes_with(containerd, SETTINGS).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    let report = trial_pull(&node, &image)?;
    ensure!(
        report["upstream"].as_u64() >= Some(image.size()),
        "{report}"
    );
    ensure!(
        report["reasons"]["no_peer"].as_u64() >= Some(image.size()),
        "{report}"
    );
    ensure!(
        node.containerd.holds(&image) == 0,
        "the node kept some of it"
    );
    Ok(())
}
