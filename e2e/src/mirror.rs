//! Peili, the program under test, by its command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::containerd::Containerd;
use crate::network::Host;
use crate::process::{self, Daemon};
use crate::site;

/// Names another build to test, or any program with the same command line.
const BINARY: &str = "PEILI_E2E_BINARY";

const REGISTRY_PORT: u16 = 5000;
const ROUTER_PORT: u16 = 5001;
const BOOTSTRAP_PORT: u16 = 5002;
const METRICS_PORT: u16 = 9090;

/// The program under test: what `PEILI_E2E_BINARY` names, else what cargo built last.
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

/// Where a mirror keeps its content.
pub enum Store<'a> {
    Containerd(&'a Containerd),
    /// The embedded store, in this folder.
    Layout(&'a Path),
}

/// One node's mirror while it runs.
pub struct Mirror {
    daemon: Daemon,
    address: Ipv4Addr,
}

impl Mirror {
    /// Starts a mirror on the host. `data` is its folder, `first` the node that all bootstrap from.
    pub fn start(
        host: &Host,
        store: &Store<'_>,
        registries: &[String],
        data: &Path,
        first: Ipv4Addr,
        log: &Path,
    ) -> Result<Mirror> {
        let address = host.address;
        let mut serve = host.command(peili()?);
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
        Ok(Mirror {
            daemon: Daemon::spawn("peili", &mut serve, log)?,
            address,
        })
    }

    /// Waits until the mirror says that it is ready.
    pub async fn ready(&mut self, host: &Host) -> Result<()> {
        let to = self.registry();
        let answers = async || Ok(host.request("GET", to, "/readyz")? == 200);
        self.daemon.until("peili to be ready", answers).await
    }

    /// The address of its registry.
    pub fn registry(&self) -> SocketAddr {
        SocketAddr::from((self.address, REGISTRY_PORT))
    }

    /// Asks it to end and waits until it has.
    pub async fn stop(self) -> Result<()> {
        self.daemon.stop().await
    }
}

/// Writes hosts.toml files for the registries into `folder`, with the host's own mirror in front.
pub fn configure(folder: &Path, registries: &[String], mirror: Ipv4Addr) -> Result<()> {
    let mut configuration = Command::new(peili()?);
    configuration.args(["configuration", "--resolve-tags"]);
    configuration
        .arg("--containerd-registry-config-path")
        .arg(folder);
    configuration.arg("--mirrored-registries").args(registries);
    let target = format!("http://{mirror}:{REGISTRY_PORT}");
    configuration.args(["--mirror-targets", &target]);
    process::output(&mut configuration).map(drop)
}
