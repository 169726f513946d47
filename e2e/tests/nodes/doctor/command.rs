//! `peili doctor` on a node of a lab.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use e2e::{Host, Node, peili, until};
use serde_json::Value;

/// `peili doctor` on a node.
pub struct Doctor {
    namespace: String,
    metrics: String,
    pub hosts: PathBuf,
    pub config: PathBuf,
    socket: PathBuf,
    content: PathBuf,
}

impl Doctor {
    pub fn of(node: &Node) -> Result<Self> {
        let hosts = node.containerd.hosts();
        let folder = hosts.parent().context("a folder")?;
        Ok(Self {
            namespace: node.host.namespace().to_owned(),
            metrics: format!("{}:9090", node.host.address),
            config: folder.join("config.toml"),
            socket: node.containerd.socket(),
            content: node.containerd.content(),
            hosts,
        })
    }

    /// The findings, each with its severity. `options` follow those of the node, and override them.
    pub fn finds(&self, options: &[&str]) -> Result<Vec<String>> {
        let findings = self.findings(options)?;
        let told = findings.iter().map(|finding| {
            let part = |name: &str| finding[name].as_str().unwrap_or_default();
            ensure!(!part("remedy").is_empty(), "{finding} says not what to do");
            Ok(format!("{} {}", part("code"), part("severity")))
        });
        told.collect()
    }

    pub fn findings(&self, options: &[&str]) -> Result<Vec<Value>> {
        let mut command = Host::command_in(&self.namespace, peili()?);
        command.args([
            "doctor",
            "--output",
            "json",
            "--metrics-endpoint",
            &self.metrics,
        ]);
        for (option, path) in [
            ("--containerd-sock", &self.socket),
            ("--containerd-config", &self.config),
            ("--containerd-content-path", &self.content),
            ("--containerd-registry-config-path", &self.hosts),
        ] {
            if !options.contains(&option) {
                command.arg(option).arg(path);
            }
        }
        let output = command.args(options).output()?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let findings = report["findings"].as_array().context("findings")?;
        let is_bad = |finding: &&Value| finding["severity"] != "ok";
        Ok(findings.iter().filter(is_bad).cloned().collect())
    }

    /// Waits until the doctor finds nothing.
    pub async fn finds_nothing(&self) -> Result<()> {
        until("the doctor to find nothing", async || {
            let found = self.finds(&[])?;
            ensure!(found.is_empty(), "it finds {found:?}");
            Ok(true)
        })
        .await
    }

    /// Waits until the doctor finds this, as in `PEILI-P001 fault`, and nothing else.
    pub async fn named(&self, finding: &str) -> Result<()> {
        until(&format!("the doctor to find {finding} alone"), async || {
            let found = self.finds(&[])?;
            ensure!(found == [finding], "it finds {found:?}");
            Ok(true)
        })
        .await?;
        println!("{finding}");
        Ok(())
    }

    /// Fails unless the doctor finds this and nothing else.
    pub fn expect(&self, code: &str, severity: &str, options: &[&str]) -> Result<()> {
        let found = self.finds(options)?;
        let expected = format!("{code} {severity}");
        ensure!(
            found == [expected.as_str()],
            "{expected} was prepared, and found was {:#?}",
            self.findings(options)?
        );
        println!("{expected}");
        Ok(())
    }
}
