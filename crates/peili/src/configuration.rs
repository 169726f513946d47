//! `peili configuration`: makes containerd ask this node's mirror first.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use hosts::{Configuration, Failure, Mirrored, Report, Target};
use tokio_util::sync::CancellationToken;

use crate::cli::ConfigurationArgs;
use crate::fault::Faults;
use crate::{credentials, value};

/// The interval between checks of the files with `--watch`. A check reads a handful of small files; inotify would miss
/// folders that are replaced and later mounts.
const WATCH_PERIOD: Duration = Duration::from_secs(2);

/// Writes the files, and with `--watch` keeps them until `shutdown`.
///
/// # Errors
/// The arguments are at fault, or not all of the files could be written (with `--watch`: by the end).
pub async fn run(arguments: &ConfigurationArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Work {
        configuration,
        allow_partial,
        watch,
    } = validate(arguments)?;
    let configuration = Arc::new(configuration);
    let apply = || {
        let configuration = configuration.clone();
        tokio::task::spawn_blocking(move || hosts::configure(&configuration))
    };
    let report = apply()
        .await?
        .context("containerd's registry configuration was not written")?;
    log(&report);
    let mut failures = report.failures;
    tell(&failures);
    if watch {
        tracing::info!("written; watching until stopped");
    }
    let mut error = String::new();
    while watch
        && shutdown
            .run_until_cancelled(tokio::time::sleep(WATCH_PERIOD))
            .await
            .is_some()
    {
        match apply().await? {
            Ok(report) => {
                error.clear();
                if !report.written.is_empty() {
                    tracing::info!("hosts.toml files were changed; writing them again");
                    log(&report);
                }
                // Logged once for each reason: the cause may last.
                if report.failures != failures {
                    failures = report.failures;
                    tell(&failures);
                }
            }
            Err(now) => {
                let now = format!("{now:#}");
                if now != error {
                    tracing::warn!(error = now, "cannot write the files; trying again");
                    error = now;
                }
            }
        }
    }
    match failures.len() {
        0 => Ok(()),
        _ if allow_partial => Ok(()),
        count => bail!(
            "{count} of the files for containerd could not be written; each is named above, with what to do"
        ),
    }
}

/// Logs the failures.
pub fn tell(failures: &[Failure]) {
    for failure in failures {
        tracing::error!(path = %failure.path.display(), "cannot change this path: {}", failure.reason);
    }
}

/// Logs the results of a run.
pub fn log(report: &Report) {
    let lists = [
        ("written", &report.written),
        ("unchanged", &report.unchanged),
        ("restored", &report.restored),
        ("removed", &report.removed),
    ];
    for (what, paths) in lists {
        for path in paths {
            tracing::info!(path = %path.display(), "{what}");
        }
    }
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
}

/// The work to do.
struct Work {
    configuration: Configuration,
    /// Whether registries that cannot be written are tolerated.
    allow_partial: bool,
    /// Whether to keep the files.
    watch: bool,
}

fn validate(arguments: &ConfigurationArgs) -> anyhow::Result<Work> {
    let mut faults = Faults::default();
    let registries = faults.list(
        "--mirrored-registries",
        &arguments.mirrored_registries,
        str::parse::<Mirrored>,
    );
    let targets = faults.list(
        "--mirror-targets",
        &arguments.mirror_targets,
        str::parse::<Target>,
    );
    if arguments.mirror_targets.is_empty() {
        faults.add(
            "--mirror-targets",
            "at least this node's mirror, as http://ADDRESS:PORT",
        );
    }
    let resolve_tags = faults.take("--resolve-tags", value::boolean(&arguments.resolve_tags));
    let prepend = faults.take(
        "--prepend-existing",
        value::boolean(&arguments.prepend_existing),
    );
    let allow_partial = faults.take("--allow-partial", value::boolean(&arguments.allow_partial));
    let watch = faults.take("--watch", value::boolean(&arguments.watch));
    let credentials = credentials::read(&arguments.credentials, &arguments.given, &mut faults);
    let path = arguments.containerd_registry_config_path.parse();
    let path = faults.take("--containerd-registry-config-path", path);
    let all = || Some((path?, resolve_tags?, prepend?, allow_partial?, watch?));
    let (path, resolve_tags, prepend_existing, allow_partial, watch) = faults.settle(all())?;
    // Created only now: an invalid command line leaves nothing behind.
    let node_secret = match arguments.node_secret_file.as_str() {
        "" => None,
        file => Some(hosts::secret::ensure(Path::new(file))?),
    };
    let configuration = Configuration {
        path,
        registries,
        targets,
        resolve_tags,
        prepend_existing,
        credentials,
        node_secret,
    };
    Ok(Work {
        configuration,
        allow_partial,
        watch,
    })
}
