//! `peili doctor`: reports what is wrong on the node that it runs on.

mod gather;
mod platforms;

pub use gather::gather;

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use ::doctor::{Containerd, ContainerdPaths, Facts, Mirror, Report, Severity, diagnose};
use anyhow::bail;
use hosts::ConfigPath;
use hosts::probe::Endpoint;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::cli::DoctorArgs;
use crate::duration;
use crate::fault::Faults;
use crate::show::{self, Output};

/// The interval between checks with `--wait`.
const PERIOD: Duration = Duration::from_secs(1);

/// The places to examine.
struct DoctorTarget {
    endpoint: Endpoint,
    /// The paths on the command line; empty: those of the mirror.
    given: ContainerdPaths,
    /// The mirror does not run yet.
    pre: bool,
}

/// Reports what is wrong with this node's mirror, and what to do.
///
/// # Errors
/// The arguments are at fault, or something does not work.
pub async fn run(arguments: &DoctorArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut faults = Faults::default();
    let endpoint = faults.take("--metrics-endpoint", arguments.ask.metrics_endpoint.parse());
    let output = faults.take("--output", arguments.ask.output.parse::<Output>());
    let wait = faults.take("--wait", duration::parse(&arguments.wait));
    let given = ContainerdPaths {
        socket: arguments.containerd_sock.clone(),
        content: arguments.containerd_content_path.clone(),
        config: arguments.containerd_config.clone(),
        registry_config: arguments.containerd_registry_config_path.clone(),
    };
    if !given.registry_config.is_empty() {
        let path = given.registry_config.parse::<ConfigPath>();
        faults.take("--containerd-registry-config-path", path);
    }
    let all = || Some((endpoint?, output?, wait?));
    let (endpoint, output, wait) = faults.settle(all())?;
    let place = DoctorTarget {
        endpoint,
        given,
        pre: arguments.pre,
    };
    let until = Instant::now() + wait;
    let report = loop {
        let report = diagnose(&place.facts().await);
        let is_well = report.severity() < Severity::Fault;
        if is_well || Instant::now() >= until {
            break report;
        }
        if shutdown.run_until_cancelled(sleep(PERIOD)).await.is_none() {
            break report;
        }
    };
    show_report(&report, output)?;
    if report.severity() == Severity::Fault {
        bail!("something does not work");
    }
    Ok(())
}

fn show_report(report: &Report, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Text => print!("{}", report.text(std::io::stdout().is_terminal())),
        Output::Json => println!("{}", serde_json::to_string_pretty(report)?),
    }
    Ok(())
}

impl DoctorTarget {
    async fn facts(&self) -> Facts {
        let mirror = self.mirror().await;
        let paths = self.paths(mirror.as_ref().ok().map(|(_, mirror)| mirror));
        let address = self.endpoint.to_string();
        let is_assumed = self.given.socket.is_empty() && mirror.is_err() && !self.pre;
        let mut facts = gather(paths, mirror, address, !self.pre).await;
        if let Containerd::Unreachable {
            socket, elsewhere, ..
        } = &facts.containerd
            && is_assumed
            && elsewhere.is_empty()
            && !Path::new(socket).exists()
        {
            let socket = socket.clone();
            facts.containerd = Containerd::Unknown { socket };
        }
        facts
    }

    /// The paths of containerd and its files. `None`: the mirror has its own store.
    fn paths(&self, mirror: Option<&Mirror>) -> Option<ContainerdPaths> {
        let given = &self.given;
        let default = || ContainerdPaths {
            socket: "/run/containerd/containerd.sock".into(),
            content: String::new(),
            config: "/etc/containerd/config.toml".into(),
            registry_config: "/etc/containerd/certs.d".into(),
        };
        let told = match mirror {
            Some(mirror) if given.socket.is_empty() => mirror.containerd.clone()?,
            Some(mirror) => mirror.containerd.clone().unwrap_or_else(default),
            None => default(),
        };
        let first = |given: &String, told: String| match given.is_empty() {
            true => told,
            false => given.clone(),
        };
        Some(ContainerdPaths {
            socket: first(&given.socket, told.socket),
            content: first(&given.content, told.content),
            config: first(&given.config, told.config),
            registry_config: first(&given.registry_config, told.registry_config),
        })
    }

    /// The mirror's report on itself, and the name of its node.
    async fn mirror(&self) -> Result<(String, Mirror), String> {
        let facts = show::ask(&self.endpoint, "/api/v1/doctor").await?;
        serde_json::from_slice(&facts).map_err(|_| "it answers with something else".to_owned())
    }
}
