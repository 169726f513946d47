//! A cluster: control plane, registry, and nodes with different containerds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use futures::future::try_join_all;

use super::cgroups;
use super::control::Control;
use super::machine::Plan;
use super::node::{self, Node, Number};
use super::options::Options;
use super::pki::Authority;
use super::upstream::{PRIVATE, PUBLIC, Upstream};
use crate::network::{Host, Network};
use crate::site::Site;
use crate::wait;

const CONTROL: u8 = 5;

/// A running cluster. Fields are dropped in order: users of the network before the network.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub control: Control,
    pub upstream: Upstream,
    /// A registry that needs a password.
    pub private: Upstream,
    _network: Network,
    folder: PathBuf,
}

impl Cluster {
    /// Starts a cluster and waits until its nodes are Ready and its DNS answers; prints how long each step took. Its
    /// logs are kept in `target/e2e/logs/kube`.
    pub async fn start(options: &Options) -> Result<Cluster> {
        let start = Instant::now();
        let say = |what: &str| println!("{:6.1} s  {what}", start.elapsed().as_secs_f32());
        let site = Site::get()?;
        let (lab, folder) = site.lab()?;
        let logs = site.logs("kube")?;
        let runs = folder
            .ancestors()
            .nth(2)
            .context("the lab lies in a run's folder")?;
        cgroups::sweep(runs)?;

        let network = Network::new(&lab)?;
        let authority = Authority::make(&folder.join("pki"))?;
        let upstream = Upstream::start(PUBLIC, &network, &authority, &folder, &logs).await?;
        let private = Upstream::start(PRIVATE, &network, &authority, &folder, &logs).await?;
        push_system_images(&upstream, &options.programs)?;
        say("registries serve");

        let numbers: Vec<_> = (1..).map(Number).take(options.runtimes.len()).collect();
        // Mirrors ask registries from their pods.
        for registry in [&upstream, &private] {
            for &node in &numbers {
                node::route_to_pods(registry.host(), node)?;
            }
        }
        let plan = |name: &str, last: u8| {
            let host = network.host(name, last)?;
            plan(name, host, &numbers, &folder, &logs, [&upstream, &private])
        };
        let control_plan = plan("control", CONTROL)?;
        let clients = folder.join("clients");
        let control =
            Control::start(control_plan, &lab, &options.programs, &authority, clients).await?;
        say("API server is ready");

        let mut starts = Vec::new();
        for (&number, runtime) in numbers.iter().zip(&options.runtimes) {
            let plan = plan(&number.name(), number.last())?;
            let (lab, authority, control) = (&lab, &authority, &control.machine.host);
            let programs = &options.programs;
            starts.push(Node::start(
                plan, number, lab, programs, runtime, authority, control,
            ));
        }
        let nodes = try_join_all(starts)
            .await
            .context("the nodes did not start")?;
        let cluster = Cluster {
            nodes,
            control,
            upstream,
            private,
            _network: network,
            folder,
        };
        for node in &cluster.nodes {
            cluster.node_ready(&node.name).await?;
        }
        say("nodes are Ready");
        // Mirrors reach the registries by the names that nodes have in /etc/hosts.
        let registries = [&cluster.upstream, &cluster.private].map(Upstream::hosts_line);
        let registries = registries.concat().trim().replace('\n', "\n            ");
        let coredns = include_str!("coredns.yaml").replace("REGISTRIES", &registries);
        cluster.control.apply(&coredns)?;
        cluster.rolled_out("kube-system deployment/coredns")?;
        say("DNS answers");
        Ok(cluster)
    }

    /// Waits until a node is Ready in the API server.
    pub async fn node_ready(&self, name: &str) -> Result<()> {
        wait::until(&format!("node {name} to be Ready"), async || {
            let node = self.control.get(&format!("node {name}"))?;
            let conditions = node["status"]["conditions"].as_array();
            Ok(conditions.is_some_and(|conditions| {
                let is_ready =
                    |c: &serde_json::Value| c["type"] == "Ready" && c["status"] == "True";
                conditions.iter().any(is_ready)
            }))
        })
        .await
    }

    /// Waits until all pods of a workload, `NAMESPACE KIND/NAME`, are up to date and ready.
    pub fn rolled_out(&self, workload: &str) -> Result<()> {
        let arguments = format!("rollout status --timeout 180s --namespace {workload}");
        self.control.kubectl(&arguments).map(drop)
    }
}

impl Cluster {
    /// How a developer accesses the cluster from a shell.
    pub fn how_to_reach(&self) -> String {
        let nodes = self.nodes.iter().map(|node| {
            let enter = node.machine.command("bash");
            format!("\n  {}: {}", node.name, line(&enter))
        });
        format!(
            "\n  {}{}",
            self.control.how_to_ask(),
            nodes.collect::<String>()
        )
    }
}

fn line(command: &std::process::Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        // The control plane still runs, but can be killed without these files.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A machine that knows the addresses of all others.
fn plan(
    name: &str,
    host: Host,
    nodes: &[Number],
    folder: &Path,
    logs: &Path,
    registries: [&Upstream; 2],
) -> Result<Plan> {
    for &other in nodes.iter().filter(|node| node.name() != name) {
        node::route_to_pods(&host, other)?;
    }
    let plan = Plan::new(name, host, folder.join(name), logs.join(name))?;
    let registries = registries.map(Upstream::hosts_line).concat();
    let hosts = format!("127.0.0.1 localhost\n{registries}");
    plan.etc("hosts", hosts)?;
    plan.etc("resolv.conf", "options attempts:1 timeout:1\n")?;
    plan.etc(
        "kubernetes/pki/ca.crt",
        fs::read(folder.join("pki/ca.crt"))?,
    )?;
    Ok(plan)
}

fn push_system_images(upstream: &Upstream, programs: &Path) -> Result<()> {
    upstream.push("pause", "1", &[1])?;
    upstream.push_program("coredns", "1", &programs.join("coredns"))?;
    Ok(())
}
