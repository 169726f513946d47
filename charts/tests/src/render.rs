//! The chart rendered with values, for a version of Kubernetes.

use std::io::Write as _;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::NEWEST;
use crate::objects::{Objects, parse};
use crate::tools::{chart, tool};

/// A major version of Helm.
#[derive(Clone, Copy, Debug)]
pub enum Helm {
    Three,
    Four,
}

impl Helm {
    /// # Errors
    /// The environment does not name it.
    pub fn command(self) -> Result<Command> {
        tool(match self {
            Helm::Three => "CHART_HELM_3",
            Helm::Four => "CHART_HELM_4",
        })
    }
}

/// How the chart is rendered; by default with Helm 4, without values, for the newest Kubernetes.
#[derive(Clone, Debug)]
pub struct Render {
    helm: Helm,
    release: String,
    kubernetes: String,
    apis: Vec<String>,
    values: Vec<String>,
    template: Option<String>,
}

impl Default for Render {
    fn default() -> Self {
        Self {
            helm: Helm::Four,
            release: "mirror".into(),
            kubernetes: NEWEST.into(),
            apis: Vec::new(),
            values: Vec::new(),
            template: None,
        }
    }
}

impl Render {
    pub fn helm(mut self, helm: Helm) -> Self {
        self.helm = helm;
        self
    }

    pub fn release(mut self, name: &str) -> Self {
        self.release = name.into();
        self
    }

    pub fn kubernetes(mut self, version: &str) -> Self {
        self.kubernetes = version.into();
        self
    }

    /// An API that the cluster has beside those of every Kubernetes.
    pub fn api(mut self, name: &str) -> Self {
        self.apis.push(name.into());
        self
    }

    /// Values as a YAML document. Later ones win.
    pub fn values(mut self, yaml: &str) -> Self {
        self.values.push(yaml.into());
        self
    }

    /// One value, its name with dots.
    pub fn set(self, name: &str, value: &Value) -> Self {
        let nested = name
            .rsplit('.')
            .fold(value.clone(), |inner, key| json!({ key: inner }));
        self.values(&nested.to_string())
    }

    /// One template alone, by its path within the chart.
    pub fn only(mut self, template: &str) -> Self {
        self.template = Some(template.into());
        self
    }

    /// What is rendered, hooks among it.
    ///
    /// # Errors
    /// Helm or the chart refuses the values; the message says why.
    pub fn objects(&self) -> Result<Objects> {
        parse(&self.manifest()?)
    }

    /// The same as text.
    ///
    /// # Errors
    /// As above.
    pub fn manifest(&self) -> Result<String> {
        let mut command = self.helm.command()?;
        command.args(["template", &self.release]);
        command.args(["--kube-version", &self.kubernetes]);
        command.args(self.apis.iter().flat_map(|api| ["--api-versions", api]));
        command.args(self.template.iter().flat_map(|path| ["--show-only", path]));
        self.run(&mut command)
    }

    /// What an installation tells the user. Helm 4 alone does so without a cluster.
    ///
    /// # Errors
    /// As above.
    pub fn notes(&self) -> Result<String> {
        let mut command = Helm::Four.command()?;
        command.args(["install", &self.release, "--dry-run=client"]);
        let text = self.run(&mut command)?;
        let (_, notes) = text
            .split_once("\nNOTES:\n")
            .context("there are no notes")?;
        Ok(notes.to_owned())
    }

    /// Why the values are refused.
    ///
    /// # Errors
    /// They are not.
    pub fn refusal(&self) -> Result<String> {
        match self.manifest() {
            Err(error) => Ok(format!("{error:#}")),
            Ok(_) => bail!("rendered: {self:?}"),
        }
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        command.args(["--namespace", "mirrors"]).arg(chart());
        let mut files = Vec::new();
        for text in &self.values {
            let mut file = tempfile::NamedTempFile::new()?;
            file.write_all(text.as_bytes())?;
            command.arg("--values").arg(file.path());
            files.push(file);
        }
        let output = command.output();
        let output = output.with_context(|| format!("{command:?} could not be started"))?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
