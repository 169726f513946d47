//! A failing trial as the only fault: containerd was started with another configuration than it has now.

use std::fs::{self, File};
use std::time::SystemTime;

use anyhow::{Result, ensure};
use e2e::{Node, peili, until};
use serde_json::json;
use tokio::net::TcpListener;

use crate::api_server::ApiServer;
use crate::doctor::Doctor;

const API_PORT: u16 = 6443;
const METRICS_PORT: u16 = 9090;

/// Puts a service account at the kubelet's mount point, visible only to the following program.
const WITH_ACCOUNT: &str = "
    account=$1; shift
    mount -t tmpfs tmpfs /run
    mkdir -p /run/secrets/kubernetes.io
    cp -r \"$account\" /run/secrets/kubernetes.io/serviceaccount
    exec \"$@\"";

/// The mirror of a node in Kubernetes makes containerd pull a trial image. The doctor and the page report that it does
/// not arrive. Once containerd has read its configuration again, it arrives.
pub async fn failed_trial_is_named(node: &mut Node, doctor: &Doctor) -> Result<()> {
    let text = fs::read_to_string(&doctor.config)?;
    ensure!(text.contains("certs.d'"), "no config_path in {text}");
    fs::write(&doctor.config, text.replacen("certs.d'", "elsewhere'", 1))?;
    node.restart_containerd().await?;
    // According to its time, the file has been unchanged for long.
    fs::write(&doctor.config, text)?;
    let file = File::options().write(true).open(&doctor.config)?;
    file.set_modified(SystemTime::UNIX_EPOCH)?;

    node.take_mirror()?.stop().await?;
    let _server = start_in_kubernetes(node).await?;
    doctor.named("PEILI-T001 fault").await?;
    let page = (node.host.address, METRICS_PORT).into();
    until("the page to show the trial", async || {
        let (_, page) = node.host.get(page, "/")?;
        let page = String::from_utf8(page)?;
        Ok(page.contains("PEILI-T001") && page.contains("containerd did not ask this mirror"))
    })
    .await?;
    node.restart_containerd().await?;
    doctor.finds_nothing().await
}

/// Starts the mirror as in a pod that reports the node's readiness to Kubernetes.
async fn start_in_kubernetes(node: &mut Node) -> Result<ApiServer> {
    let address = node.host.address;
    let listener = node.host.listen(API_PORT)?;
    listener.set_nonblocking(true)?;
    let name = format!("node-{}", address.octets()[3]);
    let object = json!({
        "metadata": { "name": name, "uid": "u-1", "resourceVersion": "1" },
        "status": { "conditions": [] },
    });
    let server = ApiServer::at(TcpListener::from_std(listener)?, object);
    let mut serve = node.host.runtime("sh");
    serve.args(["-ec", WITH_ACCOUNT, "sh"]);
    serve.arg(server.folder.path()).arg(peili()?);
    serve.env("NODE_READINESS", "condition");
    serve.env("KUBERNETES_SERVICE_HOST", address.to_string());
    serve.env("KUBERNETES_SERVICE_PORT", API_PORT.to_string());
    node.start_mirror_by(serve)?;
    node.ready().await?;
    Ok(server)
}
