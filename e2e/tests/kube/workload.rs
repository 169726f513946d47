//! A Deployment whose pods start on all nodes at once.

use anyhow::{Context, Result, ensure};

use crate::suite::{ScenarioResult, Suite, app_version};
use crate::updates::{SPEGEL, WITHOUT_SPEGEL, prepare_for_spegel};

/// The most bytes that upstream may send, as a multiple of the image's size, with every handshake and manifest.
const MAX_COPIES: f64 = 1.1;

fn deployment(image: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: app}}
spec:
  replicas: 3
  selector:
    matchLabels: {{app: app}}
  template:
    metadata:
      labels: {{app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - labelSelector:
              matchLabels: {{app: app}}
            topologyKey: kubernetes.io/hostname
      containers:
      - {{name: app, image: '{image}'}}
"
    )
}

/// An image that three nodes pull at the same time crosses upstream once.
pub async fn three_pods_at_once(suite: &Suite) -> Result<ScenarioResult> {
    suite.install(&[])?;
    deploy_on_all(suite, "v1").await
}

/// The same with Spegel's own chart, in which only the image is replaced.
pub async fn three_pods_at_once_in_spegels_chart(suite: &Suite) -> Result<ScenarioResult> {
    let Some(spegel) = prepare_for_spegel(suite).await? else {
        return Ok(ScenarioResult::NotRun(WITHOUT_SPEGEL.to_owned()));
    };
    let tag = app_version(&suite.options.workspace.join("charts/peili"))?;
    let values = format!("image.repository=ghcr.io/peili/peili,image.digest=,image.tag={tag}");
    suite.helm(SPEGEL, &spegel.chart, &["--set", &values])?;
    suite.cluster.rolled_out("spegel daemonset/spegel")?;
    let outcome = deploy_on_all(suite, "in-spegels-chart").await?;
    suite.uninstall(SPEGEL, &[])?;
    suite.ensure_hosts_as_before()?;
    Ok(outcome)
}

/// Runs a pod of a new image on each node at the same time.
async fn deploy_on_all(suite: &Suite, tag: &str) -> Result<ScenarioResult> {
    let cluster = &suite.cluster;
    let image = cluster.upstream.push("lab/app", tag, &[25_000_000; 4])?;
    let sent = suite
        .sent_during(async {
            cluster.control.apply(&deployment(&image.by_tag()))?;
            cluster.rolled_out("default deployment/app")
        })
        .await?;
    let slowest = slowest_pull(suite, &image.by_tag())?;
    cluster.control.kubectl("delete deployment app --wait")?;
    let times = sent as f64 / image.size() as f64;
    ensure!(
        times <= MAX_COPIES,
        "upstream sent {times:.2} times the image"
    );
    Ok(ScenarioResult::Passed(format!(
        "3 pods, {:.1} MB in 4 layers: upstream sent {times:.3} times the image; slowest pull {slowest:.2} s",
        image.size() as f64 / 1e6,
    )))
}

/// The duration of the kubelets' slowest pull of an image, in seconds.
fn slowest_pull(suite: &Suite, image: &str) -> Result<f64> {
    let events = suite
        .cluster
        .control
        .get("events --field-selector reason=Pulled")?;
    let events = events["items"].as_array().context("a list of events")?;
    // `Successfully pulled image "<image>" in 895ms (895ms including waiting). …`
    let begin = format!("Successfully pulled image \"{image}\" in ");
    let took = events.iter().filter_map(|event| {
        let rest = event["message"].as_str()?.strip_prefix(&begin)?;
        seconds(rest.split(' ').next()?)
    });
    let took: Vec<_> = took.collect();
    ensure!(
        took.len() == 3,
        "{} kubelets say that they pulled {image}",
        took.len()
    );
    Ok(took.into_iter().fold(0.0, f64::max))
}

/// Parses a duration in Go's notation: `895ms`, `1.2s`, `1m2.5s`.
fn seconds(text: &str) -> Option<f64> {
    if let Some(milliseconds) = text.strip_suffix("ms") {
        return Some(milliseconds.parse::<f64>().ok()? / 1e3);
    }
    let (minutes, seconds) = text.split_once('m').unwrap_or(("0", text));
    let seconds = seconds.strip_suffix('s')?.parse::<f64>().ok()?;
    Some(minutes.parse::<f64>().ok()? * 60.0 + seconds)
}
