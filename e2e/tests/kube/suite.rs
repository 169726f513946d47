//! The cluster of all scenarios, and their operations on it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::kube::{CERTS, Cluster, Node, Options};
use e2e::{Image, until};
use serde_json::Value;

/// The name and the namespace of the release.
pub const PEILI: &str = "peili";

/// The bytes that a registry may send without pulls: answers about tags, handshakes.
pub const CHATTER: u64 = 256 << 10;

/// A file that the owner of the first node has written there.
const OWNERS: &str = "server = 'https://registry.example'\n\n[host.'https://near.example']\n";

/// All files of a folder, with their content.
type Files = Vec<(String, Vec<u8>)>;

/// The result of a scenario.
pub enum ScenarioResult {
    /// It passed, with these figures.
    Passed(String),
    /// It could not be run, for this reason.
    NotRun(String),
}

/// A cluster with the charts that are tested on it.
pub struct Suite {
    pub cluster: Cluster,
    pub options: Options,
    /// The contents of each node's folder of hosts.toml files before any installation.
    hosts: Vec<Files>,
}

impl Suite {
    /// Starts the cluster and pushes the images under test.
    pub async fn start(options: Options) -> Result<Suite> {
        let cluster = Cluster::start(&options).await?;
        let tag = app_version(&options.workspace.join("charts/peili"))?;
        let upstream = &cluster.upstream;
        upstream.push_archive(&options.image, "peili/peili", &tag)?;
        for node in &cluster.nodes {
            println!("{}: containerd {}", node.name, node.version);
        }
        // One node has files of its owner, one has an empty folder, and one has none.
        let first = cluster.nodes[0].machine.path(CERTS);
        fs::create_dir_all(first.join("registry.example"))?;
        fs::write(first.join("registry.example/hosts.toml"), OWNERS)?;
        fs::create_dir_all(cluster.nodes[1].machine.path(CERTS))?;
        let hosts = cluster
            .nodes
            .iter()
            .map(Node::hosts)
            .collect::<Result<_>>()?;
        Ok(Suite {
            cluster,
            options,
            hosts,
        })
    }

    /// Installs Peili's chart, or changes the release to these values, and waits until all mirrors are ready.
    pub fn install(&self, values: &[&str]) -> Result<()> {
        self.install_as(PEILI, PEILI, values)
    }

    /// Does the same with a release of another name. `daemonset`: the resulting name in the chart.
    pub fn install_as(&self, release: &str, daemonset: &str, values: &[&str]) -> Result<()> {
        self.helm(
            release,
            &self.options.workspace.join("charts/peili"),
            values,
        )?;
        self.cluster
            .rolled_out(&format!("{release} daemonset/{daemonset}"))
    }

    /// Installs or upgrades a release, in the namespace of the same name. `arguments`: Helm's.
    pub fn helm(&self, release: &str, chart: &Path, arguments: &[&str]) -> Result<()> {
        let chart = chart.to_str().context("a chart's path is UTF-8")?;
        let upgrade = [
            "upgrade",
            "--install",
            release,
            chart,
            "--namespace",
            release,
        ];
        let wait = ["--create-namespace", "--wait", "--timeout", "180s"];
        let arguments = [&upgrade[..], &wait, arguments].concat();
        self.cluster.control.helm(arguments).map(drop)
    }

    /// Uninstalls a release.
    pub fn uninstall(&self, release: &str, arguments: &[&str]) -> Result<()> {
        let uninstall = ["uninstall", release, "--namespace", release, "--wait"];
        let arguments = [&uninstall[..], &["--timeout", "300s"], arguments].concat();
        self.cluster.control.helm(arguments).map(drop)
    }

    /// Fails if any node's folder of hosts.toml files differs from the beginning.
    pub fn ensure_hosts_as_before(&self) -> Result<()> {
        for (node, before) in self.cluster.nodes.iter().zip(&self.hosts) {
            let now = node.hosts()?;
            let names = |files: &Files| {
                files
                    .iter()
                    .map(|(name, _)| name.clone())
                    .collect::<Vec<_>>()
            };
            ensure!(
                now == *before,
                "{}: {CERTS} held {:?} and holds {:?}",
                node.name,
                names(before),
                names(&now)
            );
        }
        Ok(())
    }

    /// Makes a node pull an image that another node has, repeatedly, until upstream sends nothing: the mirrors know
    /// each other.
    pub async fn finds(&self, node: &Node, image: &Image) -> Result<()> {
        let name = image.by_tag();
        until(
            &format!("{} to find {name} at its peers", node.name),
            async || {
                node.cri.remove(&name).await?;
                Ok(self.sent_during(node.cri.pull(&name)).await? < CHATTER)
            },
        )
        .await
    }

    /// The bytes that the registry sends during some work.
    pub async fn sent_during(&self, work: impl Future<Output = Result<()>>) -> Result<u64> {
        let before = self.cluster.upstream.sent()?;
        work.await?;
        Ok(self.cluster.upstream.sent()? - before)
    }

    /// The pods of Peili's mirrors on a node.
    pub fn mirrors(&self, node: &Node) -> Result<Vec<Value>> {
        let name = &node.name;
        let selector = "--selector app.kubernetes.io/component=peili";
        let field = format!("--field-selector spec.nodeName={name}");
        let pods = self
            .cluster
            .control
            .get(&format!("pods -n {PEILI} {selector} {field}"))?;
        Ok(pods["items"].as_array().cloned().unwrap_or_default())
    }

    /// The process of the mirror on a node, in this machine's numbering, once it runs alone there: after an update the
    /// old one serves for some seconds more.
    pub async fn process(&self, node: &Node) -> Result<i32> {
        let mut processes = Vec::new();
        until(&format!("one mirror to run on {}", node.name), async || {
            processes = node.machine.processes("peili", &["registry"]);
            Ok(processes.len() == 1)
        })
        .await?;
        Ok(processes[0])
    }

    /// The state of the cluster, for a reader of a failure.
    pub fn state(&self) -> String {
        let commands = [
            "get nodes,daemonsets,pods -A -o wide",
            "get events -A --sort-by .lastTimestamp",
            "logs -n peili --selector app.kubernetes.io/name=peili --all-containers --tail 5 --prefix",
        ];
        let answers = commands.map(|command| match self.cluster.control.kubectl(command) {
            Ok(answer) => {
                let lines: Vec<_> = answer.lines().collect();
                lines[lines.len().saturating_sub(40)..].join("\n")
            }
            Err(error) => format!("{error:#}"),
        });
        answers.join("\n")
    }

    /// Keeps the cluster until Enter is pressed.
    pub fn keep(&self) -> Result<()> {
        println!(
            "\nthe cluster runs until you press Enter. {}",
            self.cluster.how_to_reach()
        );
        std::io::stdin().read_line(&mut String::new())?;
        Ok(())
    }
}

/// The version of the application in a chart.
pub fn app_version(chart: &Path) -> Result<String> {
    let text = fs::read_to_string(chart.join("Chart.yaml"))?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("appVersion:"));
    let version = version.map(|version| version.trim().trim_matches('"').to_owned());
    version.with_context(|| format!("{} names no appVersion", chart.display()))
}
