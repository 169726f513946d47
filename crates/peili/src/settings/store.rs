//! The node's store, and what is retained in containerd's.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd::Retain;
use hosts::ConfigPath;
use oci::{Filter, RegistryUrl};

use crate::cli::StoreArgs;
use crate::fault::Faults;
use crate::{duration, size, value};

/// The least `--retain-for`; containerd keeps the end of a lease in whole seconds.
const MIN_RETAIN_FOR: Duration = Duration::from_secs(10);

/// The store of the node.
#[derive(Clone, Debug)]
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
    let socket = PathBuf::from(&arguments.containerd_sock);
    faults.take("--containerd-sock", socket_or_nothing(&socket));
    let content_path = value::path(&arguments.containerd_content_path);
    if let Some(folder) = &content_path {
        faults.take("--containerd-content-path", value::folder(folder));
    }
    let path = &arguments.containerd_registry_config_path;
    let path = faults.take(
        "--containerd-registry-config-path",
        path.parse::<ConfigPath>(),
    );
    let config = containerd::Config {
        socket,
        namespaces,
        content_path,
        registries: registries.iter().map(|url| url.registry.clone()).collect(),
        retain,
    };
    let setup = containerd::Setup {
        config_file: (&arguments.containerd_config).into(),
        registry_config_paths: path?.folders().to_vec(),
    };
    Some(Store::Containerd { config, setup })
}

/// Checks that the path is a socket, or nothing yet: containerd may start later.
fn socket_or_nothing(path: &Path) -> Result<(), String> {
    let what = match std::fs::metadata(path) {
        Ok(found) if found.file_type().is_socket() => return Ok(()),
        Ok(found) if found.is_dir() => {
            "a folder, as a mount of a socket that is not there makes one; remove it, or name containerd's socket"
        }
        Ok(_) => "a file; name containerd's socket",
        // The store reports a path that cannot be examined now; that may be fixed while it runs.
        Err(_) => return Ok(()),
    };
    Err(format!("{} is not a socket but {what}", path.display()))
}

fn layout_store(
    arguments: &StoreArgs,
    registries: Vec<RegistryUrl>,
    faults: &mut Faults,
) -> Option<Store> {
    let limit = faults.take("--store-limit", size::parse(&arguments.store_limit));
    let path = store_path(arguments);
    match &path {
        Some(folder) => drop(faults.take("--store-path", value::folder(folder))),
        None => faults.add(
            "--store-path",
            "is needed with --store layout: the folder for the content",
        ),
    }
    let auth_file = value::path(&arguments.registry_auth_file);
    if let Some(file) = &auth_file {
        faults.take("--registry-auth-file", check_auth_file(file));
    }
    let upstream = upstream::Options {
        registries,
        auth_file,
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

/// The given folder, or one in the state folder that systemd gives a service (systemd.exec, `StateDirectory=`).
fn store_path(arguments: &StoreArgs) -> Option<PathBuf> {
    value::path(&arguments.store_path).or_else(|| {
        let first = arguments.state_directory.split(':').next()?;
        Some(value::path(first)?.join("store"))
    })
}

fn check_auth_file(path: &Path) -> Result<(), String> {
    if path.is_dir() {
        return Err(format!(
            "{} is a folder; name the file in it, usually config.json",
            path.display()
        ));
    }
    upstream::check_auth_file(path).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

/// Which layers that containerd discards are kept. `None`: none, or the options are at fault.
pub fn retain(
    arguments: &StoreArgs,
    filter: Option<Filter>,
    faults: &mut Faults,
) -> Option<Retain> {
    if arguments.store != "containerd" {
        return None;
    }
    let time = faults.take("--retain-for", duration::parse(&arguments.retain_for));
    let bytes = faults.take("--retain-bytes", size::parse(&arguments.retain_bytes));
    let disk_percent = value::number(&arguments.retain_disk_percent, 1..=100);
    let disk_percent = faults.take("--retain-disk-percent", disk_percent);
    let time = time.filter(|time| !time.is_zero())?;
    if time < MIN_RETAIN_FOR {
        faults.add(
            "--retain-for",
            format!(
                "{:?} is too short for anybody to fetch a layer; write at least {} s, or 0 to retain nothing",
                arguments.retain_for,
                MIN_RETAIN_FOR.as_secs()
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
    fn a_service_has_a_folder_for_its_store() {
        let path = |line: &str| match validate(line).expect("sound").store {
            Store::Layout { options, .. } => options.path,
            Store::Containerd { .. } => panic!("another store"),
        };
        let service = "--store layout --state-directory /nowhere/peili:/nowhere/other";
        assert_eq!(path(service), Path::new("/nowhere/peili/store"));
        let given = format!("{service} --store-path /nowhere/mine");
        assert_eq!(path(&given), Path::new("/nowhere/mine"));
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
            retain("--store layout --store-path /x")
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
                "--retain-for: is for --store containerd; with --store layout leave it out",
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
