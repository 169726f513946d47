//! `peili pull-test`: whether this node's containerd asks this node's mirror. It runs in a pod whose image has just
//! been pulled (the chart's `helm test`): if containerd had bypassed the mirror, the mirror would not know of the pull.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use hosts::probe::{self, Endpoint};

use crate::cli::PullTestArgs;
use crate::duration;
use crate::fault::Faults;
use crate::settings::node_name;

/// Reads the metrics of all mirrors and reports whether this node's was asked lately.
pub async fn run(arguments: &PullTestArgs) -> anyhow::Result<()> {
    let mut faults = Faults::default();
    let endpoint = arguments.metrics_endpoint.parse::<Endpoint>();
    let endpoint = faults.take("--metrics-endpoint", endpoint);
    let within = faults.take("--within", duration::parse(&arguments.within));
    let all = || Some((endpoint?, within?));
    let (endpoint, within) = faults.settle(all())?;
    let node = &node_name(&arguments.node_name);
    let mut failed = Vec::new();
    for (address, answer) in probe::get_all(&endpoint, "/metrics", probe::REQUEST_LIMIT).await? {
        match answer.map(|page| Page(String::from_utf8_lossy(&page).into_owned())) {
            Ok(page) if page.is_of(node) => {
                let age = page.age()?;
                let Some(age) = age.filter(|age| *age <= within) else {
                    bail!("{}", unasked(node, age, within));
                };
                println!(
                    "the containerd of node {} asked its mirror {} s ago",
                    node,
                    age.as_secs()
                );
                return Ok(());
            }
            Ok(_) => {}
            Err(fault) => failed.push(format!("{address}: {fault}")),
        }
    }
    bail!(
        "no mirror behind {endpoint} runs on node {}{}",
        node,
        if failed.is_empty() {
            String::new()
        } else {
            format!("; not answered: {}", failed.join("; "))
        }
    );
}

fn unasked(node: &str, age: Option<Duration>, within: Duration) -> String {
    let last = match age {
        Some(age) => format!("for {} s", age.as_secs()),
        None => "since it started".to_owned(),
    };
    format!(
        "the containerd of node {node} has not asked its mirror {last}, though an image was pulled within the last {} s: see whether \
         containerd's config_path names the folder that the mirror writes, and whether the mirror's address in its hosts.toml leads to \
         this node",
        within.as_secs()
    )
}

/// A page of metrics in OpenMetrics text.
struct Page(String);

impl Page {
    fn is_of(&self, node: &str) -> bool {
        let label = format!("node={node:?}");
        let mut infos = self
            .0
            .lines()
            .filter(|line| line.starts_with("peili_node_info{"));
        infos.any(|line| line.contains(&label))
    }

    /// The time since the last request of the node's own client. `None`: there was none.
    fn age(&self) -> anyhow::Result<Option<Duration>> {
        let name = "peili_own_client_last_request_timestamp_seconds ";
        let value = self.0.lines().find_map(|line| line.strip_prefix(name));
        let Some(seconds) = value.and_then(|value| value.trim().parse::<u64>().ok()) else {
            bail!(
                "the mirror of this node does not say when it was last asked: it is older than this command"
            );
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok((seconds > 0).then(|| now.saturating_sub(Duration::from_secs(seconds))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_its_node_and_when_it_was_asked() {
        let page = |seconds: u64| {
            Page(format!(
                "# HELP x\npeili_node_info{{version=\"1\",node=\"n1\"}} 1\npeili_own_client_last_request_timestamp_seconds {seconds}\n"
            ))
        };
        assert!(page(1).is_of("n1") && !page(1).is_of("n") && !page(1).is_of("n11"));
        assert_eq!(page(0).age().expect("told"), None);
        let age = page(1).age().expect("told").expect("asked once");
        assert!(age > Duration::from_secs(1_000_000_000));
        assert!(Page(String::new()).age().is_err());
    }
}
