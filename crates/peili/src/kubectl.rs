//! Accesses a cluster with the user's own `kubectl` and kubeconfig: Peili needs no permissions for commands of users.

use std::process::{Child, Command, Output};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::task::spawn_blocking;

/// The label selector of the mirrors of a release of the chart.
const SELECTOR: &str = "app.kubernetes.io/component=peili";
/// The container of a mirror, and the program in it.
const CONTAINER: &str = "registry";
const PROGRAM: &str = "/peili";
/// The limit for one answer of the API server.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// A namespace of a cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    namespace: String,
}

/// The pod of a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub node: String,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: String,
}

impl Kubectl {
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        let limit = format!("--request-timeout={}s", REQUEST_LIMIT.as_secs());
        command.args(["--namespace", &self.namespace, &limit]);
        command.args(arguments);
        command
    }

    /// The pods of mirrors that have a node, by its name.
    ///
    /// # Errors
    /// kubectl fails, or there are none.
    pub async fn pods(&self) -> anyhow::Result<Vec<Pod>> {
        let get = ["get", "pods", "--selector", SELECTOR, "--output=json"];
        let list = self.succeed(&get).await?;
        let list: List = serde_json::from_slice(&list).context("kubectl lists no pods")?;
        let pods = list.items.into_iter().map(|item| Pod {
            name: item.metadata.name,
            node: item.spec.node_name,
        });
        let mut pods: Vec<_> = pods.filter(|pod| !pod.node.is_empty()).collect();
        if pods.is_empty() {
            bail!(
                "no mirror runs in the namespace {}; name the one of the release with --namespace",
                self.namespace
            );
        }
        pods.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(pods)
    }

    /// The output of the program in a mirror's pod, whatever its exit code.
    ///
    /// # Errors
    /// It cannot be run there, or prints nothing.
    pub async fn peili(&self, pod: &Pod, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let inside = ["exec", &pod.name, "--container", CONTAINER, "--", PROGRAM];
        let output = run(self.command(&[&inside[..], arguments].concat())).await?;
        if output.stdout.is_empty() {
            bail!("{}", last_line(&output.stderr));
        }
        Ok(output.stdout)
    }

    /// Starts a pod that pulls an image and runs once. `overrides`: JSON for the pod.
    ///
    /// # Errors
    /// kubectl fails.
    pub async fn run_pod(&self, name: &str, image: &str, overrides: &str) -> anyhow::Result<()> {
        let image = format!("--image={image}");
        let overrides = format!("--overrides={overrides}");
        let pull = "--image-pull-policy=Always";
        self.succeed(&["run", name, &image, pull, "--restart=Never", &overrides])
            .await
            .map(drop)
    }

    /// A pod in the API's form.
    ///
    /// # Errors
    /// kubectl fails, or there is no such pod.
    pub async fn pod(&self, name: &str) -> anyhow::Result<Value> {
        let printed = self.succeed(&["get", "pod", name, "--output=json"]).await?;
        serde_json::from_slice(&printed).context("kubectl shows no pod")
    }

    /// Removes a pod, if it is there.
    ///
    /// # Errors
    /// kubectl fails.
    pub async fn delete_pod(&self, name: &str) -> anyhow::Result<()> {
        let delete = ["delete", "pod", name, "--ignore-not-found", "--wait=false"];
        self.succeed(&delete).await.map(drop)
    }

    /// Runs kubectl and returns its output.
    async fn succeed(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let output = run(self.command(arguments)).await?;
        if !output.status.success() {
            let what = arguments.first().copied().unwrap_or_default();
            bail!("kubectl {what} failed: {}", last_line(&output.stderr));
        }
        Ok(output.stdout)
    }

    /// Starts to forward a port of this host to one of a mirror's pod.
    ///
    /// # Errors
    /// kubectl cannot be started.
    pub fn forward(&self, pod: &Pod, local: u16, remote: u16) -> anyhow::Result<Child> {
        let ports = format!("{local}:{remote}");
        let mut forward = Command::new("kubectl");
        forward.args([
            "--namespace",
            &self.namespace,
            "port-forward",
            &pod.name,
            &ports,
        ]);
        forward.spawn().map_err(unstartable)
    }
}

async fn run(mut command: Command) -> anyhow::Result<Output> {
    let output = spawn_blocking(move || command.output()).await?;
    output.map_err(unstartable)
}

fn unstartable(error: std::io::Error) -> anyhow::Error {
    anyhow::Error::from(error).context("cannot start kubectl; install it, or add it to PATH")
}

fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.unwrap_or("kubectl says nothing").to_owned()
}
