//! `peili doctor --cluster`: the doctor of each node, run in its mirror's pod.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::bail;
use futures::stream::{self, StreamExt as _};
use serde::Serialize;
use serde_json::Value;

use crate::cli::DoctorArgs;
use crate::fault::Faults;
use crate::kubectl::{Kubectl, Pod};
use crate::show::Output;

/// The most nodes that are examined at the same time.
const PARALLEL: usize = 16;

/// The findings of a node.
#[derive(Debug, Serialize)]
struct NodeReport {
    node: String,
    pod: String,
    findings: Vec<Value>,
    /// Why the node could not be examined.
    error: Option<String>,
}

/// Reports what is wrong with the mirrors of a cluster.
///
/// # Errors
/// The arguments are at fault, kubectl fails, or something does not work.
pub async fn run(arguments: &DoctorArgs) -> anyhow::Result<()> {
    let mut faults = Faults::default();
    let output = faults.take("--output", arguments.ask.output.parse::<Output>());
    let output = faults.settle(output)?;
    let kubectl = Kubectl::new(&arguments.namespace);
    let pods = kubectl.pods().await?;
    let looks = pods.into_iter().map(|pod| look(&kubectl, pod));
    let looks: Vec<_> = looks.collect();
    let reports: Vec<_> = stream::iter(looks).buffered(PARALLEL).collect().await;
    let shown = match output {
        Output::Json => {
            serde_json::to_string_pretty(&serde_json::json!({"nodes": reports}))? + "\n"
        }
        Output::Text => text(&reports),
    };
    std::io::stdout().write_all(shown.as_bytes())?;
    match reports.iter().filter(|report| report.is_faulty()).count() {
        0 => Ok(()),
        faulty => bail!(
            "something does not work on {faulty} of {} nodes",
            reports.len()
        ),
    }
}

async fn look(kubectl: &Kubectl, pod: Pod) -> NodeReport {
    let printed = kubectl.peili(&pod, &["doctor", "--output=json"]).await;
    let report = printed.and_then(|bytes| Ok(serde_json::from_slice::<Value>(&bytes)?));
    let (findings, error) = match report {
        Ok(report) => match report["findings"].as_array() {
            Some(findings) => (findings.clone(), None),
            None => (Vec::new(), Some("it prints no findings".to_owned())),
        },
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    NodeReport {
        node: pod.node,
        pod: pod.name,
        findings,
        error,
    }
}

impl NodeReport {
    fn is_faulty(&self) -> bool {
        let is_fault = |finding: &Value| finding["severity"] == "fault";
        self.error.is_some() || self.findings.iter().any(is_fault)
    }
}

/// A line for each node, with its findings below it.
fn text(reports: &[NodeReport]) -> String {
    let mut text = String::new();
    for report in reports {
        let mark = if report.is_faulty() { "×" } else { "√" };
        // Writing to a text does not fail.
        let _ = writeln!(text, "{mark} {} ({})", report.node, report.pod);
        if let Some(error) = &report.error {
            let _ = writeln!(text, "    the doctor cannot be run there: {error}");
        }
        for finding in &report.findings {
            let mark = match finding["severity"].as_str() {
                Some("fault") => "×",
                Some("warning") => "‼",
                _ => continue,
            };
            let part = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
            let _ = writeln!(text, "  {mark} {} [{}]", part("text"), part("code"));
            for line in part("remedy").lines() {
                let _ = writeln!(text, "      {line}");
            }
        }
    }
    text
}
