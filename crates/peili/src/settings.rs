//! What the registry command's arguments mean. Validated whole: every fault is found before anything starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd::Retain;
use hosts::{Credentials, NodeSecret};
use mirror::{Access, Limits, ListenAddress, Options, Reader, Secret};
use oci::{Filter, Registry, RegistryUrl};
use swarm::{Bootstrap, HttpBootstrap, IdForm, PeerAddress};

use crate::cli::{BootstrapArgs, CredentialsArgs, MirrorArgs, RegistryArgs, StoreArgs};
use crate::duration;
use crate::fault::Faults;

/// Of `--retain-for`; containerd keeps the end of a lease in whole seconds.
const RETAIN_LEAST: Duration = Duration::from_secs(10);

/// A configuration that can work.
#[derive(Debug)]
pub struct Settings {
    pub registry_addr: ListenAddress,
    pub metrics_addr: ListenAddress,
    pub router_addr: ListenAddress,
    pub data_dir: Option<PathBuf>,
    pub bootstrap: Bootstrap,
    pub store: Store,
    pub mirror: Options,
    /// Whether this node takes part in flights.
    pub flights: bool,
    pub drain_timeout: Duration,
}

/// Which store the node has.
#[derive(Debug)]
pub enum Store {
    Containerd {
        config: containerd::Config,
        setup: containerd::Setup,
    },
    Layout {
        options: layout::Options,
        upstream: upstream::Options,
    },
}

impl Settings {
    /// # Errors
    /// All that is wrong.
    pub fn validate(arguments: &RegistryArgs) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let registry_addr = faults.take("--registry-addr", arguments.registry_addr.parse());
        let metrics_addr = faults.take("--metrics-addr", arguments.metrics_addr.parse());
        let router_addr = faults.take("--router-addr", arguments.router_addr.parse());
        let drain_timeout =
            faults.take("--drain-timeout", duration::parse(&arguments.drain_timeout));
        let registries = mirrored(&arguments.mirror, &mut faults);
        let bootstrap = bootstrap(&arguments.bootstrap, &mut faults);
        let mirror = mirror(&arguments.mirror, &mut faults);
        let flights = faults.take("--flights", on_or_off(&arguments.mirror.flights));
        let filter = mirror.as_ref().map(|mirror| mirror.access.filter.clone());
        let retain = retain(&arguments.store, filter, &mut faults);
        let store = store(&arguments.store, registries, retain, &mut faults);
        let settings = || {
            Some(Self {
                registry_addr: registry_addr?,
                metrics_addr: metrics_addr?,
                router_addr: router_addr?,
                data_dir: path(&arguments.data_dir),
                bootstrap: bootstrap?,
                store: store?,
                mirror: mirror?,
                flights: flights?,
                drain_timeout: drain_timeout?,
            })
        };
        faults.settle(settings())
    }
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

/// A truth value as Go's strconv.ParseBool reads it.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?} is neither on nor off")),
    }
}

/// The registries named one by one; that they are well-formed is for the filter to say.
fn mirrored(arguments: &MirrorArgs, faults: &mut Faults) -> Vec<RegistryUrl> {
    let named = arguments
        .mirrored_registries
        .iter()
        .filter(|text| !matches!(text.as_str(), "_default" | "*"));
    let named: Vec<String> = named.cloned().collect();
    faults.list("--mirrored-registries", &named, str::parse)
}

fn bootstrap(arguments: &BootstrapArgs, faults: &mut Faults) -> Option<Bootstrap> {
    match arguments.bootstrap_kind.as_str() {
        "dns" if arguments.dns_bootstrap_domain.is_empty() => {
            faults.add(
                "--dns-bootstrap-domain",
                "is needed with --bootstrap-kind dns",
            );
            None
        }
        "dns" => Some(Bootstrap::Dns {
            domain: arguments.dns_bootstrap_domain.clone(),
        }),
        "http" => http_bootstrap(arguments, faults).map(Bootstrap::Http),
        "static" => {
            let peers = &arguments.static_bootstrap_peers;
            let peers = faults.list("--static-bootstrap-peers", peers, str::parse::<PeerAddress>);
            Some(Bootstrap::Static { peers })
        }
        other => {
            faults.add(
                "--bootstrap-kind",
                format!("{other:?} is none of dns, http and static"),
            );
            None
        }
    }
}

fn http_bootstrap(arguments: &BootstrapArgs, faults: &mut Faults) -> Option<HttpBootstrap> {
    let (peer, url) = (
        &arguments.http_bootstrap_peer,
        &arguments.http_bootstrap_url,
    );
    let mut endpoints = Vec::new();
    if !peer.is_empty() {
        endpoints.extend(faults.take(
            "--http-bootstrap-peer",
            HttpBootstrap::endpoint_of_peer(peer),
        ));
    }
    if !url.is_empty() {
        endpoints.extend(faults.take("--http-bootstrap-url", HttpBootstrap::endpoint(url)));
    }
    let serve = match arguments.http_bootstrap_addr.as_str() {
        "" => None,
        address => Some(faults.take("--http-bootstrap-addr", address.parse())?),
    };
    if peer.is_empty() && url.is_empty() && serve.is_none() {
        faults.add(
            "--http-bootstrap-url",
            "is needed with --bootstrap-kind http, or --http-bootstrap-addr",
        );
        return None;
    }
    Some(HttpBootstrap {
        endpoints,
        serve,
        form: if peer.is_empty() {
            IdForm::List
        } else {
            IdForm::One
        },
        certificates: path(&arguments.http_bootstrap_cert_dir),
    })
}

/// What is kept of layers that containerd discards; `None`: nothing, or it is at fault.
fn retain(arguments: &StoreArgs, filter: Option<Filter>, faults: &mut Faults) -> Option<Retain> {
    let time = faults.take("--retain-for", duration::parse(&arguments.retain_for));
    let bytes = faults.take("--retain-bytes", bytes(&arguments.retain_bytes));
    let disk_percent = arguments.retain_disk_percent.parse::<u8>().ok();
    let disk_percent = disk_percent.filter(|percent| (1..=100).contains(percent));
    let disk_percent = disk_percent.ok_or_else(|| {
        format!(
            "{:?} is not a number from 1 to 100",
            arguments.retain_disk_percent
        )
    });
    let disk_percent = faults.take("--retain-disk-percent", disk_percent);
    let time = time.filter(|time| !time.is_zero())?;
    if arguments.store == "layout" {
        faults.add(
            "--retain-for",
            "is for --store containerd; what the store of --store layout keeps is bounded by --store-limit alone",
        );
    } else if time < RETAIN_LEAST {
        faults.add(
            "--retain-for",
            format!(
                "{:?} is too short for anybody to fetch a layer; write at least {} s, or 0 to retain nothing",
                arguments.retain_for,
                RETAIN_LEAST.as_secs()
            ),
        );
    }
    Some(Retain {
        time,
        bytes: bytes?,
        disk_percent: disk_percent?,
        filter: filter?,
    })
}

fn store(
    arguments: &StoreArgs,
    registries: Vec<RegistryUrl>,
    retain: Option<Retain>,
    faults: &mut Faults,
) -> Option<Store> {
    match arguments.store.as_str() {
        "containerd" => containerd_store(arguments, &registries, retain, faults),
        "layout" => layout_store(arguments, registries, faults),
        other => {
            faults.add(
                "--store",
                format!("{other:?} is neither containerd nor layout"),
            );
            None
        }
    }
}

fn containerd_store(
    arguments: &StoreArgs,
    registries: &[RegistryUrl],
    retain: Option<Retain>,
    faults: &mut Faults,
) -> Option<Store> {
    let names = arguments
        .containerd_namespace
        .split(',')
        .map(|name| name.trim().to_owned());
    let names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
    let namespaces = faults.list("--containerd-namespace", &names, str::parse);
    if names.is_empty() {
        faults.add(
            "--containerd-namespace",
            "names no namespace; the kubelet's is k8s.io",
        );
        return None;
    }
    let config = containerd::Config {
        socket: (&arguments.containerd_sock).into(),
        namespaces,
        content_path: path(&arguments.containerd_content_path),
        registries: registries.iter().map(|url| url.registry.clone()).collect(),
        retain,
    };
    let setup = containerd::Setup {
        config_file: (&arguments.containerd_config).into(),
        registry_config_path: (&arguments.containerd_registry_config_path).into(),
    };
    Some(Store::Containerd { config, setup })
}

fn layout_store(
    arguments: &StoreArgs,
    registries: Vec<RegistryUrl>,
    faults: &mut Faults,
) -> Option<Store> {
    let limit = faults.take("--store-limit", bytes(&arguments.store_limit));
    let path = self::path(&arguments.store_path);
    if path.is_none() {
        faults.add(
            "--store-path",
            "is needed with --store layout: the folder for the content",
        );
    }
    let upstream = upstream::Options {
        registries,
        auth_file: self::path(&arguments.registry_auth_file),
        ca_file: None,
        use_proxies: true,
        limits: upstream::Limits::default(),
    };
    let options = layout::Options {
        path: path?,
        limit: limit?,
    };
    Some(Store::Layout { options, upstream })
}

fn mirror(arguments: &MirrorArgs, faults: &mut Faults) -> Option<Options> {
    // Faults of --mirrored-registries are told where its URLs are read.
    let filter = Filter::new(&arguments.mirrored_registries, &arguments.registry_filters);
    for fault in filter.as_ref().err().into_iter().flatten() {
        if let oci::FilterError::Expression { value, source } = fault {
            faults.add(
                "--registry-filters",
                format!("{value:?} is no regular expression: {source}"),
            );
        }
    }
    let resolve_timeout = faults.take(
        "--mirror-resolve-timeout",
        duration::parse(&arguments.mirror_resolve_timeout),
    );
    let attempts = arguments
        .mirror_resolve_retries
        .parse::<usize>()
        .ok()
        .filter(|n| (1..=100).contains(n));
    let attempts = attempts.ok_or_else(|| {
        format!(
            "{:?} is not a number from 1 to 100",
            arguments.mirror_resolve_retries
        )
    });
    let attempts = faults.take("--mirror-resolve-retries", attempts);
    let resolve_tags = faults.take("--resolve-tags", boolean(&arguments.resolve_tags));
    faults.take("--debug-web-enabled", boolean(&arguments.debug_web_enabled));
    let default_registry = match arguments.default_registry.as_str() {
        "" => None,
        text => faults.take("--default-registry", text.parse::<Registry>()),
    };
    let node_secret = node_secret(&arguments.node_secret_file, faults);
    let authorization = credentials(&arguments.credentials, faults);
    let secret = |text: &str| Secret::new(text.to_owned());
    Some(Options {
        access: Access {
            filter: filter.ok()?,
            authorization: authorization.map(|credentials| secret(credentials.header_value())),
            node_secret: node_secret.map(|node_secret| secret(node_secret.header_value())),
            resolve_tags: resolve_tags?,
        },
        reader: Reader { default_registry },
        limits: Limits {
            resolve_timeout: resolve_timeout?,
            attempts: attempts?,
        },
    })
}

fn node_secret(file: &str, faults: &mut Faults) -> Option<NodeSecret> {
    let file = path(file)?;
    faults.take("--node-secret-file", hosts::secret::ensure(&file))
}

/// The mirror's own credentials, from the environment or from the two files of a mounted secret.
pub fn credentials(arguments: &CredentialsArgs, faults: &mut Faults) -> Option<Credentials> {
    let (name, password) = (
        &arguments.basic_auth_username,
        &arguments.basic_auth_password,
    );
    if !name.is_empty() || !password.is_empty() {
        return faults.take("BASIC_AUTH_USERNAME", Credentials::new(name, password));
    }
    let folder = Path::new(&arguments.basic_auth_dir);
    if arguments.basic_auth_dir.is_empty() || !folder.exists() {
        return None;
    }
    let read = |file: &str| {
        let path = folder.join(file);
        std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let name = faults.take("--basic-auth-dir", read("username"));
    let password = faults.take("--basic-auth-dir", read("password"));
    let (name, password) = (name?, password?);
    faults.take(
        "--basic-auth-dir",
        Credentials::new(name.trim_end(), password.trim_end()),
    )
}

/// A size in bytes: a number, with a unit of 1000 (`GB`) or 1024 (`GiB`, `G`) if one is given.
pub fn bytes(text: &str) -> Result<u64, String> {
    let fault = || format!("{text:?} is not a size; write 20GiB, 500MB or a number of bytes");
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..end].parse().map_err(|_| fault())?;
    let factor = match text[end..].trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "TB" => 1000 * 1000 * 1000 * 1000,
        "K" | "Ki" | "KiB" => 1 << 10,
        "M" | "Mi" | "MiB" => 1 << 20,
        "G" | "Gi" | "GiB" => 1 << 30,
        "T" | "Ti" | "TiB" => 1u64 << 40,
        _ => return Err(fault()),
    };
    number
        .checked_mul(factor)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(fault)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn validate(line: &str) -> Result<Settings, Faults> {
        let line = format!("peili registry --basic-auth-dir= {line}");
        match Cli::try_parse_from(line.split_whitespace())
            .expect("understood")
            .command
        {
            Command::Registry(arguments) => Settings::validate(&arguments),
            other => panic!("another command: {other:?}"),
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("1", 1),
            ("20GiB", 20 << 30),
            ("5MB", 5_000_000),
            ("7 K", 7 << 10),
        ] {
            assert_eq!(bytes(text), Ok(expected));
        }
        for bad in [
            "",
            "0",
            "GiB",
            "1.5GiB",
            "-1",
            "1XB",
            "99999999999999999999",
            "99999999999TiB",
        ] {
            assert!(bytes(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_sound_line_is_taken() {
        let settings =
            validate("--bootstrap-kind static --mirrored-registries https://quay.io _default")
                .expect("sound");
        assert!(matches!(settings.store, Store::Containerd { .. }));
        assert!(settings.mirror.access.resolve_tags);
        let settings = validate(
            "--bootstrap-kind http --http-bootstrap-peer http://a:1 --store layout --store-path /x",
        );
        let settings = settings.expect("sound");
        assert!(matches!(
            settings.bootstrap,
            Bootstrap::Http(HttpBootstrap {
                form: IdForm::One,
                ..
            })
        ));
    }

    #[test]
    fn retaining_is_for_containerd_and_off_at_first() {
        let retain = |line: &str| -> Result<Option<Retain>, Faults> {
            let line = format!("--bootstrap-kind static {line}");
            match validate(&line)?.store {
                Store::Containerd { config, .. } => Ok(config.retain),
                Store::Layout { .. } => Ok(None),
            }
        };
        assert!(retain("").expect("sound").is_none());
        assert!(
            retain("--store layout --store-path /x --retain-bytes 1GB")
                .expect("sound")
                .is_none()
        );
        let line = "--retain-for 1h --mirrored-registries https://quay.io";
        let found = retain(line).expect("sound").expect("on");
        assert_eq!(found.time, Duration::from_secs(3600));
        assert_eq!((found.bytes, found.disk_percent), (10 << 30, 80));
        let origin = |registry: &str| oci::Origin {
            registry: registry.parse().expect("a registry"),
            repository: "a".parse().expect("a repository"),
        };
        assert!(found.filter.admits(&origin("quay.io")));
        assert!(!found.filter.admits(&origin("ghcr.io")));
        for (line, what) in [
            (
                "--store layout --store-path /x --retain-for 1m",
                "--retain-for: is for --store containerd",
            ),
            ("--retain-for 9s", "--retain-for: \"9s\" is too short"),
            (
                "--retain-for ten",
                "--retain-for: \"ten\" is not a duration",
            ),
            ("--retain-bytes 0", "--retain-bytes: \"0\" is not a size"),
            (
                "--retain-disk-percent 101",
                "--retain-disk-percent: \"101\" is not a number",
            ),
        ] {
            let text = retain(line).expect_err(line).to_string();
            assert_eq!(text.matches("\n  ").count(), 1, "{text}");
            assert!(text.contains(what), "{what} is not in {text}");
        }
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
    fn all_faults_are_told_at_once_each_with_its_flag() {
        let faults = validate(
            "--bootstrap-kind udp --registry-addr 5000 --router-addr x --metrics-addr :99999 --store layout \
             --store-limit 5x --mirrored-registries docker.io --registry-filters ( --mirror-resolve-timeout 5 \
             --mirror-resolve-retries 0 --resolve-tags maybe --default-registry a/b --drain-timeout x \
             --debug-web-enabled=2 --flights maybe --retain-for x --retain-bytes y --retain-disk-percent z",
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
            "--debug-web-enabled",
            "--flights",
            "--retain-for",
            "--retain-bytes",
            "--retain-disk-percent",
        ] {
            assert_eq!(
                text.matches(&format!("\n  {flag}: ")).count(),
                1,
                "{flag} in {text}"
            );
        }
    }
}
