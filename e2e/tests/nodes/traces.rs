//! Traces of pulls, with real containerds and a collector of the test.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use e2e::{Generation, Lab, Settings, until};

use crate::flights::{LONG_LAYER, pull_together, start};
use crate::otlp::{Span, collect, spans};

/// The last part of the collector's address, and its port.
const COLLECTOR: (u8, u16) = (99, 4318);

const SETTINGS: Settings = Settings {
    containerd: "",
    discards_layers: false,
    lists_config_paths: false,
    runs_containers: false,
    mirror: &["--otlp-endpoint", "http://10.77.0.99:4318"],
    names: false,
    secret: true,
    network_keys: None,
    peer_tls: None,
    checks: false,
    descriptors: None,
    plain: false,
};

/// Two nodes pull a new image at once: the layer that one streams from the other is one trace on both.
pub async fn cold_pull_is_traced_over_both_nodes(lab: Lab, containerd: Generation) -> Result<()> {
    let collector = lab.add_host("collector", COLLECTOR.0)?;
    let requests = collect(collector.listen(COLLECTOR.1)?);
    let nodes = start::<2>(&lab, containerd, SETTINGS).await?;
    let image = lab.upstream.push("lab/app", "v1", &[LONG_LAYER])?;
    pull_together(&nodes, &image).await?;

    let mut traces: BTreeMap<Vec<u8>, Vec<Span>> = BTreeMap::new();
    until("a trace over both nodes, with all its spans", async || {
        for body in requests.try_iter() {
            for span in spans(&body).context("a request in OTLP")? {
                traces.entry(span.trace.clone()).or_default().push(span);
            }
        }
        Ok(traces.values().any(|spans| is_whole(spans)))
    })
    .await?;
    let ids: Vec<_> = traces.values().flatten().map(|span| &span.id).collect();
    let distinct: BTreeSet<_> = ids.iter().collect();
    ensure!(distinct.len() == ids.len(), "spans share an id");
    Ok(())
}

/// Whether a peer answered a request of containerd, with the peer's own request below it, and every step in between.
fn is_whole(spans: &[Span]) -> bool {
    let below = |parent: &Span, name: &str| {
        let mut of_name = spans.iter().filter(|span| span.name == name);
        of_name.find(|span| span.parent == parent.id).cloned()
    };
    let roots = spans
        .iter()
        .filter(|span| span.name == "request" && span.parent.is_empty());
    roots.into_iter().any(|root| {
        let Some(peer) = below(root, "ask peer") else {
            return false;
        };
        let steps = ["connect", "first byte", "transfer", "request"];
        below(root, "lookup").is_some() && steps.iter().all(|step| below(&peer, step).is_some())
    })
}
