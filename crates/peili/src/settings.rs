//! The settings in the registry command's arguments. Validated as a whole: every fault is found before anything starts.

mod applies;
mod bootstrap;
mod checks;
mod mirror;
mod node;
mod store;

use std::path::PathBuf;
use std::time::Duration;

use ::mirror::{ListenAddress, Options, RateLimits};
use swarm::Bootstrap;

use crate::cli::RegistryArgs;
use crate::fault::Faults;
use crate::network_key_file::NetworkKeyFile;
use crate::observe::PageAccess;
use crate::peer_tls_dir::PeerTlsDir;
use crate::traces::{self, TraceSettings};
use crate::{duration, value};
pub use checks::Checks;
pub use node::{NodeReadiness, node_name};
pub use store::Store;

/// A valid configuration.
#[derive(Debug)]
pub struct Settings {
    pub registry_addr: ListenAddress,
    pub metrics_addr: ListenAddress,
    pub router_addr: ListenAddress,
    pub node_name: String,
    pub page_access: PageAccess,
    /// `None`: node readiness is off.
    pub node_readiness: Option<NodeReadiness>,
    /// The values of `--mirrored-registries`. Empty: all registries are mirrored.
    pub mirrored_registries: Vec<String>,
    pub data_dir: Option<PathBuf>,
    /// `None`: any node may be a peer.
    pub network_keys: Option<NetworkKeyFile>,
    /// `None`: there is no TLS between nodes.
    pub peer_tls: Option<PeerTlsDir>,
    /// `None`: traces are off.
    pub traces: Option<TraceSettings>,
    pub bootstrap: Bootstrap,
    pub store: Store,
    pub mirror: Options,
    pub rates: RateLimits,
    /// The checks of upstream, if the store is containerd's.
    pub checks: Checks,
    /// Whether this node takes part in flights.
    pub flights: bool,
    /// The time from the signal to end until connections are no longer accepted.
    pub shutdown_delay: Duration,
    pub drain_timeout: Duration,
}

impl Settings {
    /// # Errors
    /// All faults.
    pub fn validate(arguments: &RegistryArgs) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let registry_addr = faults.take("--registry-addr", arguments.registry_addr.parse());
        let metrics_addr = faults.take("--metrics-addr", arguments.metrics_addr.parse());
        let router_addr = faults.take("--router-addr", arguments.router_addr.parse());
        applies::check(arguments, &mut faults);
        let shutdown_delay = faults.take(
            "--shutdown-delay",
            duration::parse(&arguments.shutdown_delay),
        );
        let drain_timeout =
            faults.take("--drain-timeout", duration::parse(&arguments.drain_timeout));
        let registries = mirror::registries(&arguments.mirror, &mut faults);
        let bootstrap = bootstrap::read(&arguments.bootstrap, &mut faults);
        let page_access = faults.take("--page-access", arguments.page_access.parse());
        let mut mirror = mirror::read(
            &arguments.mirror,
            &arguments.given,
            &arguments.node.node_name,
            &mut faults,
        );
        let rates = mirror::rates(&arguments.mirror, &mut faults);
        let flights = faults.take("--flights", value::on_or_off(&arguments.mirror.flights));
        let filter = mirror.as_ref().map(|mirror| mirror.access.filter.clone());
        let node_readiness = node::readiness(
            &arguments.node,
            &arguments.mirror.mirrored_registries,
            &arguments.store.store,
            &mut faults,
        );
        let retain = store::retain(&arguments.store, filter, &mut faults);
        let store = store::read(&arguments.store, registries.clone(), retain, &mut faults);
        let data_dir = value::path(&arguments.data_dir);
        if let Some(folder) = &data_dir {
            faults.take("--data-dir", value::folder(folder));
        }
        let mirrored_registries = arguments.mirror.mirrored_registries.clone();
        let network_keys = value::path(&arguments.network_key_file)
            .and_then(|path| faults.take("--network-key-file", NetworkKeyFile::open(path)));
        let peer_tls = value::path(&arguments.peer_tls_dir)
            .and_then(|folder| faults.take("--peer-tls-dir", PeerTlsDir::open(folder)));
        if let Some(mirror) = &mut mirror {
            mirror.access.network_keys = network_keys.as_ref().map(|file| file.keys.clone());
            mirror.access.peer_tls = peer_tls.as_ref().map(|folder| folder.tls.clone());
        }
        let checks = checks::read(
            &arguments.checks,
            &arguments.store,
            registries,
            data_dir.as_deref(),
            &mut faults,
        );
        let variable = |name: &str| std::env::var(name).ok();
        let traces = traces::read(&arguments.otlp_endpoint, variable, &mut faults);
        let ports = [
            ("--registry-addr", registry_addr),
            ("--metrics-addr", metrics_addr),
            ("--router-addr", router_addr),
        ];
        refuse_one_port_for_two(&ports, &mut faults);
        let settings = || {
            Some(Self {
                registry_addr: registry_addr?,
                metrics_addr: metrics_addr?,
                router_addr: router_addr?,
                page_access: page_access?,
                node_name: node_name(&arguments.node.node_name),
                node_readiness,
                mirrored_registries,
                data_dir,
                network_keys,
                peer_tls,
                traces,
                bootstrap: bootstrap?,
                store: store?,
                mirror: mirror?,
                rates: rates?,
                checks: checks?,
                flights: flights?,
                shutdown_delay: shutdown_delay?,
                drain_timeout: drain_timeout?,
            })
        };
        faults.settle(settings())
    }
}

/// Refuses the same address for two options: the second would be in use, by this very process.
fn refuse_one_port_for_two(ports: &[(&'static str, Option<ListenAddress>)], faults: &mut Faults) {
    for (n, (flag, address)) in ports.iter().enumerate() {
        let Some(address) =
            address.filter(|address| address.sockets().iter().all(|s| s.port() != 0))
        else {
            continue;
        };
        let same = ports[..n].iter().find(|(_, other)| *other == Some(address));
        if let Some((other, _)) = same {
            faults.add(
                flag,
                format!("{address} is the address of {other} too; choose another port"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Command};

    /// The settings from a command line.
    pub(super) fn validate(line: &str) -> Result<Settings, Faults> {
        let line = format!("peili registry --basic-auth-dir= {line}");
        match cli::read(line.split_whitespace())
            .expect("understood")
            .command
        {
            Command::Registry(arguments) => Settings::validate(&arguments),
            other => panic!("another command: {other:?}"),
        }
    }

    #[test]
    fn a_sound_line_is_taken() {
        let settings =
            validate("--bootstrap-kind static --mirrored-registries https://quay.io _default")
                .expect("sound");
        assert!(matches!(settings.store, Store::Containerd { .. }));
        assert!(settings.mirror.access.resolve_tags);
        let settings = validate("--bootstrap-kind static --store layout --store-path /x");
        let settings = settings.expect("sound");
        assert!(matches!(settings.store, Store::Layout { .. }));
    }

    #[test]
    fn flights_are_on_unless_switched_off() {
        let flights = |line: &str| {
            validate(&format!("--bootstrap-kind static {line}")).map(|settings| settings.flights)
        };
        assert_eq!(flights(""), Ok(true));
        assert_eq!(flights("--flights on"), Ok(true));
        assert_eq!(flights("--flights off"), Ok(false));
        let text = flights("--flights no").expect_err("neither").to_string();
        assert!(text.contains("--flights: \"no\" is neither on nor off"));
    }

    #[test]
    fn two_options_cannot_have_one_port() {
        let text = validate("--registry-addr :5000 --metrics-addr :5000").expect_err("one port");
        let text = text.to_string();
        assert!(
            text.contains("--metrics-addr: :5000 is the address of --registry-addr too"),
            "{text}"
        );
        assert!(validate("--registry-addr 127.0.0.1:0 --metrics-addr 127.0.0.1:0").is_ok());
    }

    #[test]
    fn a_path_that_cannot_be_what_it_has_to_be_is_told_before_anything_starts() {
        let temporary = tempfile::tempdir().expect("a folder");
        let file = temporary.path().join("file");
        std::fs::write(&file, "no JSON").expect("written");
        let (folder, file) = (temporary.path().display(), file.display());
        let text = validate(&format!(
            "--store layout --store-path {file} --data-dir {file}/below --registry-auth-file {folder} \
             --node-secret-file {folder} --bootstrap-kind http --http-bootstrap-addr :1 --http-bootstrap-cert-dir {file}"
        ));
        let text = text.expect_err("no path is right").to_string();
        for fault in [
            format!("--store-path: {file} is not a folder"),
            format!("--data-dir: {file}/below cannot be looked at: Not a directory"),
            format!("--registry-auth-file: {folder} is a folder"),
            format!("--node-secret-file: --node-secret-file {folder} is a folder"),
            format!("--http-bootstrap-cert-dir: {file} is not a folder"),
        ] {
            assert!(
                text.contains(&format!("\n  {fault}")),
                "{fault} is not in {text}"
            );
        }
        for (path, word) in [
            (format!("{file}"), "config.json"),
            (format!("{folder}/none"), "No such file"),
        ] {
            let text = validate(&format!(
                "--store layout --store-path /x/y --registry-auth-file {path}"
            ));
            let text = text.expect_err("no sound file").to_string();
            assert!(
                text.contains("--registry-auth-file: ") && text.contains(word),
                "{text}"
            );
        }
        let text = validate(&format!(
            "--containerd-sock {file} --containerd-content-path {file}"
        ));
        let text = text.expect_err("neither").to_string();
        for fault in ["is not a socket", "is not a folder"] {
            assert!(text.contains(fault), "{fault} is not in {text}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once_each_with_its_flag() {
        let faults = validate(
            "--bootstrap-kind udp --registry-addr 5000 --router-addr x --metrics-addr :99999 --store layout \
             --store-limit 5x --mirrored-registries docker.io --registry-filters ( --mirror-resolve-timeout 5 \
             --mirror-resolve-retries 0 --resolve-tags maybe --default-registry a/b --drain-timeout x --shutdown-delay 5 \
             --debug-web-enabled=2 --flights maybe --retain-for x",
        );
        let text = faults.expect_err("nothing of it is right").to_string();
        for flag in [
            "--bootstrap-kind",
            "--registry-addr",
            "--router-addr",
            "--metrics-addr",
            "--store-path",
            "--store-limit",
            "--mirrored-registries",
            "--registry-filters",
            "--mirror-resolve-timeout",
            "--mirror-resolve-retries",
            "--resolve-tags",
            "--default-registry",
            "--drain-timeout",
            "--shutdown-delay",
            "--debug-web-enabled",
            "--flights",
            "--retain-for",
        ] {
            assert_eq!(
                text.matches(&format!("\n  {flag}: ")).count(),
                1,
                "{flag} in {text}"
            );
        }
    }
}
