//! `peili doctor --trial`: a pod on one node pulls an image, then a pod on another one. The mirror of the second
//! reports whether the image came from nodes.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use oci::Name;
use serde_json::{Value, json};
use status::words;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::cli::DoctorArgs;
use crate::fault::Faults;
use crate::kubectl::{Kubectl, Pod};

/// The limit for one pull by the kubelet.
const PULL_LIMIT: Duration = Duration::from_secs(5 * 60);
/// The interval between checks of a pod.
const POLL: Duration = Duration::from_secs(1);
/// The prefix of a trial's pods.
const PREFIX: &str = "peili-trial";

/// The result of the second pull, in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pulled {
    local: u64,
    peers: u64,
    upstream: u64,
    reasons: Vec<String>,
}

/// Tries an image on two nodes and reports the sources.
///
/// # Errors
/// The arguments are at fault, kubectl fails, the image cannot be pulled, or the second node did not get it from nodes.
pub async fn run(arguments: &DoctorArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut faults = Faults::default();
    let name = faults.take("--image", arguments.image.parse::<Name>());
    let name = faults.settle(name)?;
    let kubectl = Kubectl::new(&arguments.namespace);
    let pods = kubectl.pods().await?;
    let [first, second] = &pods[..2.min(pods.len())] else {
        bail!("a trial needs mirrors on two nodes, and there is one");
    };
    println!(
        "{} is pulled on {}, then on {}",
        arguments.image, first.node, second.node
    );
    let trial = trial(&kubectl, &arguments.image, first, second);
    let tried = shutdown.run_until_cancelled(trial).await;
    // The pods are removed whatever the result.
    let mut removed = Ok(());
    for place in ["first", "second"] {
        removed = removed.and(kubectl.delete_pod(&format!("{PREFIX}-{place}")).await);
    }
    tried.context("interrupted")??;
    removed?;
    let status = kubectl.peili(second, &["status", "--output=json"]).await?;
    let status = serde_json::from_slice(&status).context("the mirror prints no status")?;
    let image = name.origin.to_string();
    judge(pulled(&status, &image).as_ref(), &second.node)
}

async fn trial(kubectl: &Kubectl, image: &str, first: &Pod, second: &Pod) -> anyhow::Result<()> {
    for (place, pod) in [("first", first), ("second", second)] {
        let name = format!("{PREFIX}-{place}");
        let overrides = json!({"spec": {"nodeName": pod.node}}).to_string();
        kubectl.run_pod(&name, image, &overrides).await?;
        let until = Instant::now() + PULL_LIMIT;
        while !has_image(&kubectl.pod(&name).await?, &pod.node)? {
            ensure!(
                Instant::now() < until,
                "{image} was not pulled on {} within {} s",
                pod.node,
                PULL_LIMIT.as_secs()
            );
            sleep(POLL).await;
        }
    }
    Ok(())
}

/// Whether the kubelet has pulled a pod's image.
///
/// # Errors
/// It cannot.
fn has_image(pod: &Value, node: &str) -> anyhow::Result<bool> {
    let container = &pod["status"]["containerStatuses"][0];
    let waiting = &container["state"]["waiting"];
    if let Some("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName") =
        waiting["reason"].as_str()
    {
        let why = waiting["message"]
            .as_str()
            .unwrap_or("the kubelet does not say why");
        bail!("the image cannot be pulled on {node}: {why}");
    }
    let id = container["imageID"].as_str().unwrap_or_default();
    Ok(!id.is_empty())
}

/// The last pull of an image in the mirror's status.
fn pulled(status: &Value, image: &str) -> Option<Pulled> {
    let finished = status["finished"].as_array()?;
    let is_it = |pull: &&Value| {
        let name = pull["image"].as_str().unwrap_or_default();
        name == image
            || name
                .strip_prefix(image)
                .is_some_and(|rest| rest.starts_with([':', '@']))
    };
    let pull = finished.iter().find(is_it)?;
    let bytes = |field: &str| pull[field].as_u64().unwrap_or_default();
    let reasons = pull["reasons"].as_object().into_iter().flatten();
    Some(Pulled {
        local: bytes("local"),
        peers: bytes("peers"),
        upstream: bytes("upstream"),
        reasons: reasons
            .map(|(reason, _)| words::reason(reason).to_owned())
            .collect(),
    })
}

fn judge(pulled: Option<&Pulled>, node: &str) -> anyhow::Result<()> {
    let Some(pulled) = pulled else {
        bail!(
            "the containerd of {node} has not asked its mirror for the image: it had the image already (try one that the nodes do not \
             have), or it does not ask the mirror (run peili doctor --cluster)"
        );
    };
    let Pulled {
        local,
        peers,
        upstream,
        reasons,
    } = pulled;
    let shown = format!(
        "{node} got {} from nodes, {} from its own store and {} from the registry",
        words::bytes(*peers),
        words::bytes(*local),
        words::bytes(*upstream)
    );
    if *peers > 0 && peers >= upstream {
        println!("√ {shown}");
        return Ok(());
    }
    if reasons.is_empty() {
        bail!("{shown}: try an image that the nodes do not have");
    }
    bail!("{shown}: {}", reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_from_nodes_passes_and_any_other_says_why_not() {
        let status = json!({"finished": [
            {"image": "quay.io/a/b-other", "peers": 1},
            {"image": "quay.io/a/b", "local": 0, "peers": 900, "upstream": 10, "reasons": {"leads": 10}},
        ]});
        let found = pulled(&status, "quay.io/a/b").expect("it is there");
        assert_eq!((found.peers, found.upstream), (900, 10));
        judge(Some(&found), "n2").expect("it came from nodes");
        assert_eq!(pulled(&status, "quay.io/a"), None);
        let told = judge(None, "n2").expect_err("not asked").to_string();
        assert!(told.contains("has not asked its mirror"), "{told}");
        let upstream = Pulled {
            upstream: 5,
            reasons: vec!["no node had it".into()],
            ..Pulled::default()
        };
        let told = judge(Some(&upstream), "n2")
            .expect_err("from upstream")
            .to_string();
        assert!(
            told.ends_with("5 B from the registry: no node had it"),
            "{told}"
        );
    }

    #[test]
    fn a_pod_has_its_image_or_says_why_it_cannot() {
        let pod = |container: Value| json!({"status": {"containerStatuses": [container]}});
        assert!(!has_image(&json!({"status": {}}), "n").expect("not yet"));
        assert!(has_image(&pod(json!({"imageID": "sha256:1"})), "n").expect("there"));
        let failed = pod(
            json!({"imageID": "", "state": {"waiting": {"reason": "ErrImagePull", "message": "denied"}}}),
        );
        let told = has_image(&failed, "n").expect_err("it cannot").to_string();
        assert!(told.ends_with("on n: denied"), "{told}");
    }
}
