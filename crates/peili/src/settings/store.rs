//! Which store the node has, and what is retained in containerd's.

use std::time::Duration;

use containerd::Retain;
use oci::{Filter, RegistryUrl};

use crate::cli::StoreArgs;
use crate::fault::Faults;
use crate::{duration, size, value};

/// Of `--retain-for`; containerd keeps the end of a lease in whole seconds.
const RETAIN_LEAST: Duration = Duration::from_secs(10);

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

pub fn read(
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
        content_path: value::path(&arguments.containerd_content_path),
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
    let limit = faults.take("--store-limit", size::parse(&arguments.store_limit));
    let path = value::path(&arguments.store_path);
    if path.is_none() {
        faults.add(
            "--store-path",
            "is needed with --store layout: the folder for the content",
        );
    }
    let upstream = upstream::Options {
        registries,
        auth_file: value::path(&arguments.registry_auth_file),
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

/// What is kept of layers that containerd discards; `None`: nothing, or it is at fault.
pub fn retain(
    arguments: &StoreArgs,
    filter: Option<Filter>,
    faults: &mut Faults,
) -> Option<Retain> {
    let time = faults.take("--retain-for", duration::parse(&arguments.retain_for));
    let bytes = faults.take("--retain-bytes", size::parse(&arguments.retain_bytes));
    let disk_percent = value::number(&arguments.retain_disk_percent, 1..=100);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::validate;

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
}
