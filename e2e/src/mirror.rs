//! Peili, the program under test, through its command line.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::containerd::Containerd;
use crate::network::Host;
use crate::process::{self, Daemon};
use crate::site;

/// The environment variable with another build to test, or any program with the same command line.
const BINARY: &str = "PEILI_E2E_BINARY";

/// The ports of a mirror, on any node.
pub const REGISTRY_PORT: u16 = 5000;
pub const ROUTER_PORT: u16 = 5001;
const BOOTSTRAP_PORT: u16 = 5002;
const METRICS_PORT: u16 = 9090;

/// The program under test: the one in `PEILI_E2E_BINARY`, or else the one that cargo built last.
pub fn peili() -> Result<PathBuf> {
    let binary = match std::env::var_os(BINARY) {
        Some(path) => PathBuf::from(path),
        None => site::profile_folder()?.join("peili"),
    };
    if !binary.exists() {
        bail!(
            "{} is not there: build it, or let {BINARY} name another",
            binary.display()
        );
    }
    Ok(binary)
}

/// The store of a mirror's content.
pub enum Store<'a> {
    Containerd(&'a Containerd),
    /// The embedded store, in this folder.
    Layout(&'a Path),
}

/// One node's running mirror.
pub struct Mirror {
    daemon: Daemon,
    address: Ipv4Addr,
}

impl Mirror {
    /// Starts a mirror on the host. `data`: its folder; `first`: the node from which all bootstrap; `more`: further
    /// options.
    pub fn start(
        host: &Host,
        store: &Store<'_>,
        registries: &[String],
        data: &Path,
        first: Ipv4Addr,
        more: &[&OsStr],
        log: &Path,
    ) -> Result<Mirror> {
        let first = first.to_string();
        let serve = host.command(peili()?);
        Mirror::start_by(
            serve,
            host.address,
            store,
            registries,
            data,
            &first,
            more,
            log,
        )
    }

    /// Does the same with a command that runs the program. `first` may be a name.
    #[allow(clippy::too_many_arguments)]
    pub fn start_by(
        mut serve: Command,
        address: Ipv4Addr,
        store: &Store<'_>,
        registries: &[String],
        data: &Path,
        first: &str,
        more: &[&OsStr],
        log: &Path,
    ) -> Result<Mirror> {
        serve.args(["registry", "--bootstrap-kind", "http"]);
        match store {
            Store::Containerd(containerd) => {
                serve.arg("--containerd-sock").arg(containerd.socket());
                serve.arg("--containerd-content-path");
                serve.arg(containerd.content());
            }
            Store::Layout(folder) => {
                serve.args(["--store", "layout", "--store-path"]);
                serve.arg(folder);
            }
        }
        let bootstrap = format!("http://{first}:{BOOTSTRAP_PORT}/id");
        serve.args(["--http-bootstrap-url", &bootstrap]);
        for (option, port) in [
            ("--http-bootstrap-addr", BOOTSTRAP_PORT),
            ("--router-addr", ROUTER_PORT),
            ("--registry-addr", REGISTRY_PORT),
            ("--metrics-addr", METRICS_PORT),
        ] {
            serve.args([option, &format!("{address}:{port}")]);
        }
        serve.arg("--data-dir").arg(data);
        serve.arg("--mirrored-registries").args(registries);
        // Nothing in these tests must learn that a mirror is about to end.
        serve.env("SHUTDOWN_DELAY", "0s");
        serve.args(more);
        Ok(Mirror {
            daemon: Daemon::spawn("peili", &mut serve, log)?,
            address,
        })
    }

    /// Waits until the mirror reports that it is ready.
    pub async fn ready(&mut self, host: &Host) -> Result<()> {
        let to = self.registry();
        let answers = async || Ok(host.request("GET", to, "/readyz")? == 200);
        self.daemon.until("peili to be ready", answers).await
    }

    /// The address of its registry.
    pub fn registry(&self) -> SocketAddr {
        SocketAddr::from((self.address, REGISTRY_PORT))
    }

    /// The sum of a metric over all its labels.
    pub fn metric(&self, host: &Host, name: &str) -> Result<f64> {
        let (_, metrics) = host.get((self.address, METRICS_PORT).into(), "/metrics")?;
        Ok(sum_of(&String::from_utf8(metrics)?, name))
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        self.daemon.has_ended()
    }

    /// Its process id.
    pub fn pid(&self) -> Result<rustix::process::Pid> {
        self.daemon.pid()
    }

    /// Kills it.
    pub fn kill(&self) -> Result<()> {
        self.daemon.kill()
    }

    /// Asks it to end and waits until it has.
    pub async fn stop(self) -> Result<()> {
        self.daemon.stop().await
    }
}

/// Writes hosts.toml files for the registries into `folder`, with the host's own mirror first. `more`: further options.
pub fn configure(
    folder: &Path,
    registries: &[String],
    mirror: Ipv4Addr,
    more: &[&OsStr],
) -> Result<()> {
    let mut configuration = Command::new(peili()?);
    configuration.args(["configuration", "--resolve-tags"]);
    configuration
        .arg("--containerd-registry-config-path")
        .arg(folder);
    configuration.arg("--mirrored-registries").args(registries);
    let target = format!("http://{mirror}:{REGISTRY_PORT}");
    configuration.args(["--mirror-targets", &target]).args(more);
    process::output(&mut configuration).map(drop)
}

/// Writes hosts.toml files for the registries into `folder`, without a mirror.
pub fn configure_without(folder: &Path, registries: &[String]) -> Result<()> {
    for registry in registries {
        let name = registry.split("//").last().unwrap_or(registry);
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        // containerd 1 does not accept a file without a host.
        let text = format!(
            "server = '{registry}'\n[host.'{registry}']\ncapabilities = ['pull', 'resolve']\n"
        );
        std::fs::write(folder.join("hosts.toml"), text)?;
    }
    Ok(())
}

/// Sums the samples of a metric in Prometheus text.
fn sum_of(metrics: &str, name: &str) -> f64 {
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let labelled = rest.starts_with(['{', ' ']);
        labelled.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    samples.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_metric_are_summed() {
        let text =
            "# HELP a_total all\na_total{b=\"c d\"} 2\na_total{b=\"e\"} 3\na_total_x 5\na 7\n";
        assert_eq!(sum_of(text, "a_total"), 5.0);
        assert_eq!(sum_of(text, "none"), 0.0);
    }
}
