//! `peili configuration`: containerd is told to ask this node's mirror first.

use std::path::Path;

use anyhow::Context;
use hosts::{Configuration, Mirrored, Report, Target};

use crate::cli::ConfigurationArgs;
use crate::fault::Faults;
use crate::{credentials, value};

pub fn run(arguments: &ConfigurationArgs) -> anyhow::Result<()> {
    let configuration = validate(arguments)?;
    let report = hosts::configure(&configuration)
        .context("containerd's registry configuration was not written")?;
    log(&report);
    Ok(())
}

/// Tells what a run did.
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

fn validate(arguments: &ConfigurationArgs) -> anyhow::Result<Configuration> {
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
    let credentials = credentials::read(&arguments.credentials, &mut faults);
    let (Some(resolve_tags), Some(prepend_existing)) = (resolve_tags, prepend) else {
        return Err(faults.into());
    };
    faults.settle(Some(()))?;
    // Made only now: a command line with faults leaves nothing behind.
    let node_secret = match arguments.node_secret_file.as_str() {
        "" => None,
        file => Some(hosts::secret::ensure(Path::new(file))?),
    };
    Ok(Configuration {
        path: (&arguments.containerd_registry_config_path).into(),
        registries,
        targets,
        resolve_tags,
        prepend_existing,
        credentials,
        node_secret,
    })
}
