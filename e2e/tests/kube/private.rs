//! An image that needs a password, and kubelets that check which pods may use it.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::kube::Node;
use e2e::{USER, until};
use serde_json::Value;

use crate::suite::{ScenarioResult, Suite};

/// The part of an image that upstream may send to a node whose neighbour has it: the manifests, and overhead.
const MAX_PART: f64 = 0.02;

/// The folder in which a kubelet records which credentials have pulled which image (KEP-2535).
const RECORDS: &str = "/var/lib/kubelet/image_manager/pulled";

/// A private image comes from peers for pods with its secret, and not at all for others: kubelets record no others.
pub async fn private_image_needs_its_secret(suite: &Suite) -> Result<ScenarioResult> {
    suite.install(&[])?;
    let (cluster, control) = (&suite.cluster, &suite.cluster.control);
    let image = cluster.private.push("lab/secret", "v1", &[20_000_000; 3])?;
    let [first, second, third] = &cluster.nodes[..] else {
        anyhow::bail!("three nodes are needed");
    };
    control.kubectl(&format!(
        "create secret docker-registry pulls --docker-server private.lab --docker-username {} --docker-password {}",
        USER.0, USER.1
    ))?;
    let run = |pod: &str, node: &Node, has_secret: bool| {
        control.apply(&manifest(pod, &node.name, &image.by_tag(), has_secret))
    };
    let is_ready = |pod: &str| {
        control
            .kubectl(&format!(
                "wait pod/{pod} --for condition=Ready --timeout 60s"
            ))
            .map(drop)
    };
    run("owner", first, true)?;
    is_ready("owner")?;
    let before = cluster.private.sent()?;
    run("neighbour", second, true)?;
    is_ready("neighbour")?;
    let part = (cluster.private.sent()? - before) as f64 / image.size() as f64;
    ensure!(
        part <= MAX_PART,
        "upstream sent {part:.3} of the image again"
    );

    for (pod, node) in [("here", first), ("beside", third)] {
        run(pod, node, false)?;
        until(&format!("the pull of pod {pod} to fail"), async || {
            pull_has_failed(&control.get(&format!("pod {pod}"))?)
        })
        .await?;
    }
    let name = image.by_tag();
    let mut records = 0;
    for node in &cluster.nodes {
        let found = records_of(node, &name)?;
        for record in &found {
            let credentials = &record["credentialMapping"][&name_without_tag(&name)];
            ensure!(
                credentials["nodePodsAccessible"] != true,
                "{} lets every pod use {name}: {record}",
                node.name
            );
        }
        records += found.len();
    }
    ensure!(records == 2, "{records} kubelets have recorded {name}");
    control.kubectl("delete pod owner neighbour here beside --wait")?;
    control.kubectl("delete secret pulls")?;
    Ok(ScenarioResult::Passed(format!(
        "with the secret, upstream sent {part:.4} of the image; without, it is refused on the node that has it and on another; \
         kubelets have recorded the secret alone"
    )))
}

fn manifest(pod: &str, node: &str, image: &str, has_secret: bool) -> String {
    let secret = if has_secret {
        "  imagePullSecrets: [{name: pulls}]\n"
    } else {
        ""
    };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}}}\nspec:\n  nodeName: {node}\n{secret}  \
         terminationGracePeriodSeconds: 1\n  containers:\n  \
         - {{name: app, image: '{image}', imagePullPolicy: IfNotPresent}}\n"
    )
}

/// Whether a pod waits because its image could not be pulled.
///
/// # Errors
/// The pod runs.
fn pull_has_failed(pod: &Value) -> Result<bool> {
    let container = &pod["status"]["containerStatuses"][0];
    ensure!(
        container["state"]["running"].is_null(),
        "the pod runs without the secret"
    );
    let reason = container["state"]["waiting"]["reason"].as_str();
    Ok(matches!(reason, Some("ErrImagePull" | "ImagePullBackOff")))
}

/// A node's kubelet records for an image.
fn records_of(node: &Node, image: &str) -> Result<Vec<Value>> {
    let folder = node.machine.path(RECORDS);
    let entries = fs::read_dir(&folder)
        .with_context(|| format!("{}: the kubelet keeps no records", node.name))?;
    let mut records = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "tmp") {
            continue;
        }
        let record: Value = serde_json::from_slice(&fs::read(&path)?)?;
        if record["credentialMapping"]
            .as_object()
            .is_some_and(|of| of.contains_key(&name_without_tag(image)))
        {
            records.push(record);
        }
    }
    Ok(records)
}

fn name_without_tag(image: &str) -> String {
    image
        .rsplit_once(':')
        .map_or(image, |(name, _)| name)
        .to_owned()
}
