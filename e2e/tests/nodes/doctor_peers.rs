//! Faults between two real nodes: the doctor of one of them reports each, with its remedy, and nothing else.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::{Generation, Image, Lab, Node, OtherVersion, REGISTRY_PORT, ROUTER_PORT, peili};

use crate::doctor::{Doctor, SETTINGS};
use crate::{LAYERS, doctor_clock, doctor_trial};

/// Fewer descriptors than a busy node needs, but enough to work.
const FEW_DESCRIPTORS: u32 = 1024;

/// How often a peer lacks an object before the doctor reports it.
const OFTEN: f64 = 3.0;
const LACKING: &str = r#"peili_peer_failures_total{fault="lacking"}"#;

/// Network keys.
const KEY: &str = "4c1d0c5a2be74f0e9a7f8b1c2d3e4f50\n";
const ANOTHER_KEY: &str = "00112233445566778899aabbccddeeff\n";
const TOO_SHORT: &str = "0011\n";

/// Each prepared fault between two nodes is reported, and nothing else; between faults they are sound.
pub async fn each_fault_among_nodes_is_named(lab: Lab, containerd: Generation) -> Result<()> {
    let mut nodes: [_; 2] = lab.start_nodes_with(containerd, SETTINGS).await?;
    let doctor = Doctor::of(&nodes[0])?;
    let image = lab.upstream.push("lab/app", "v0", &LAYERS)?;
    for node in &nodes {
        node.pull(&image).await?;
    }
    doctor.finds_nothing().await?;

    let host = lab.add_host("other", 41)?;
    let other = OtherVersion::start(&host, "peili/99.0.0 (node-41)", nodes[0].host.address)?;
    doctor.named("PEILI-P003 warning").await?;
    drop(other);

    lacking(&lab, &mut nodes, &doctor).await?;
    ports(&nodes, &doctor).await?;
    keys(&mut nodes, &doctor, &image).await?;
    doctor_trial::failed_trial_is_named(&mut nodes[0], &doctor).await?;

    let mut limited = nodes[0].host.command("prlimit");
    limited.arg(format!("--nofile={FEW_DESCRIPTORS}:{FEW_DESCRIPTORS}"));
    limited.arg(peili()?);
    restart(&mut nodes[0], limited, &image).await?;
    doctor.named("PEILI-M003 warning").await?;
    let serve = nodes[0].host.command(peili()?);
    restart(&mut nodes[0], serve, &image).await?;
    let serve = doctor_clock::ahead(nodes[1].host.command(peili()?), &lab)?;
    restart(&mut nodes[1], serve, &image).await?;
    doctor.named("PEILI-M004 warning").await?;
    nodes[1].take_mirror()?.stop().await?;
    alone(&mut nodes[0], &doctor, &image).await
}

/// A node whose content was removed behind its containerd's back. It may notice that before it is asked, so objects are
/// removed until it was asked for [`OFTEN`] of them.
async fn lacking(lab: &Lab, nodes: &mut [Node; 2], doctor: &Doctor) -> Result<()> {
    const MAX_IMAGES: usize = 10;
    for number in 1..=MAX_IMAGES {
        let image = lab
            .upstream
            .push("lab/app", &format!("v{number}"), &LAYERS)?;
        nodes[1].pull(&image).await?;
        nodes[0].finds(&image).await?;
        for blob in &image.blobs {
            let blobs = nodes[1].containerd.content().join("blobs/sha256");
            fs::remove_file(blobs.join(blob.hex()))?;
            let path = format!("/v2/{}/blobs/{}", image.repository, blob.digest);
            ensure!(nodes[0].ask(&image, &path)? == 404, "{path} is still there");
        }
        if nodes[0].metric(LACKING)? >= OFTEN {
            doctor.named("PEILI-P004 warning").await?;
            let serve = nodes[0].host.command(peili()?);
            restart(&mut nodes[0], serve, &image).await?;
            return doctor.finds_nothing().await;
        }
    }
    anyhow::bail!("the node noticed in time what it lacked, {MAX_IMAGES} times")
}

/// A firewall in front of one port of the other node, then of this one.
async fn ports(nodes: &[Node; 2], doctor: &Doctor) -> Result<()> {
    // No pull needs it.
    nodes[1].host.close(REGISTRY_PORT)?;
    doctor.named("PEILI-P002 fault").await?;
    nodes[1].host.open(REGISTRY_PORT)?;
    doctor.finds_nothing().await?;

    nodes[1].host.close(ROUTER_PORT)?;
    doctor.named("PEILI-P002 fault").await?;
    nodes[1].host.open(ROUTER_PORT)?;
    doctor.finds_nothing().await?;

    nodes[0].host.close_inbound(REGISTRY_PORT)?;
    doctor.named("PEILI-P006 fault").await?;
    nodes[0].host.open_inbound(REGISTRY_PORT)?;
    doctor.finds_nothing().await
}

/// A node without a network key, with another one, or with an invalid file.
async fn keys(nodes: &mut [Node; 2], doctor: &Doctor, image: &Image) -> Result<()> {
    let files = [0, 1].map(|n: usize| nodes[n].have_network_keys());
    fs::write(&files[0], KEY)?;
    let serve = nodes[0].host.command(peili()?);
    restart(&mut nodes[0], serve, image).await?;
    // The other one has none, and is not configured to have one.
    for node in &*nodes {
        Doctor::of(node)?.named("PEILI-P005 fault").await?;
    }
    let serve = nodes[1].host.command(peili()?);
    restart(&mut nodes[1], serve, image).await?;
    // Its file does not exist.
    Doctor::of(&nodes[1])?.named("PEILI-P005 fault").await?;
    nodes[1].replace_network_keys(ANOTHER_KEY)?;
    for node in &*nodes {
        Doctor::of(node)?.named("PEILI-P005 fault").await?;
    }
    nodes[1].replace_network_keys(KEY)?;
    for node in &*nodes {
        Doctor::of(node)?.finds_nothing().await?;
    }
    nodes[0].replace_network_keys(TOO_SHORT)?;
    doctor.named("PEILI-P005 warning").await?;
    fs::remove_file(&files[0])?;
    doctor.named("PEILI-P005 warning").await?;
    nodes[0].replace_network_keys(KEY)?;
    doctor.finds_nothing().await
}

/// A node without peers, because the name for its bootstrap does not resolve.
async fn alone(node: &mut Node, doctor: &Doctor, image: &Image) -> Result<()> {
    node.take_mirror()?.stop().await?;
    fs::remove_file(node.data().join("peers.json"))?;
    let name = "peili-bootstrap.example";
    node.bootstrap_from(name);
    node.start_mirror()?;
    node.ready().await?;
    node.pull(image).await?;
    doctor.named("PEILI-P001 fault").await?;
    let found = doctor.findings(&[])?;
    let text = found.first().context("a finding")?["text"].to_string();
    ensure!(text.contains(name), "{text}");
    Ok(())
}

/// Restarts a mirror with this command, and makes the node's containerd ask it.
async fn restart(node: &mut Node, serve: Command, image: &Image) -> Result<()> {
    node.take_mirror()?.stop().await?;
    node.start_mirror_by(serve)?;
    node.ready().await?;
    node.pull(image).await
}
