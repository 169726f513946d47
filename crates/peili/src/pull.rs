//! `peili pull`: a measured trial pull. It asks this node's mirror as containerd would, goes on to the registry if the
//! mirror sends it there, verifies every byte, keeps none, and reports for each object its source, its rate, and why it
//! did not come from a peer.

mod image;
mod mirror_client;
mod progress;
mod report;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hosts::{ConfigPath, NodeSecret};
use oci::Name;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use upstream::Registries;

use crate::cli::PullArgs;
use crate::fault::Faults;
use crate::next_hosts::NextHosts;
use crate::show::Output;
use crate::value;
use image::Pull;
use mirror_client::{MirrorClient, Port};
use progress::Progress;

/// The time limits of the registry. containerd waits at least as long.
const UPSTREAM_LIMITS: upstream::Limits = upstream::Limits {
    connect: Duration::from_secs(5),
    header: Duration::from_secs(30),
    stall: Duration::from_secs(30),
};

/// Pulls an image and prints the sources; ends early at `shutdown`.
///
/// # Errors
/// The arguments are at fault, or an object did not come, or does not match its digest.
pub async fn run(arguments: &PullArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let settings = Settings::validate(arguments)?;
    let upstream = match settings.mirror_only {
        true => None,
        false => {
            let hosts = NextHosts::new(settings.config_path, settings.mirror.port);
            let registries = Registries::at_hosts(Arc::new(hosts), Vec::new(), UPSTREAM_LIMITS);
            Some(registries.context("cannot set up the client of the registry")?)
        }
    };
    let mirror = MirrorClient::new(&settings.mirror, settings.node_secret).await?;
    let progress = Progress::default();
    let pull = Pull {
        name: settings.name,
        mirror,
        upstream: upstream.map(Arc::new),
        progress: progress.clone(),
    };
    let shown = AbortOnDropHandle::new(tokio::spawn(progress.show()));
    let pulled = shutdown.run_until_cancelled(pull.run()).await;
    drop(shown);
    Progress::clear();
    let report = pulled.context("interrupted")??;
    let shown = match settings.output {
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
        Output::Text => report.to_string(),
    };
    std::io::stdout().write_all(shown.as_bytes())?;
    Ok(())
}

/// The parsed arguments.
struct Settings {
    name: Name,
    mirror: Port,
    node_secret: Option<NodeSecret>,
    config_path: ConfigPath,
    mirror_only: bool,
    output: Output,
}

impl Settings {
    fn validate(arguments: &PullArgs) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let name = faults.take("REFERENCE", arguments.reference.parse());
        let mirror = faults.take("--registry-endpoint", arguments.registry_endpoint.parse());
        let secret_file = value::path(&arguments.node_secret_file);
        let node_secret =
            secret_file.map(|file| faults.take("--node-secret-file", node_secret(&file)));
        let config_path = arguments.containerd_registry_config_path.parse();
        let config_path = faults.take("--containerd-registry-config-path", config_path);
        let output = faults.take("--output", arguments.output.parse());
        let settings = || {
            Some(Self {
                name: name?,
                mirror: mirror?,
                node_secret: match node_secret {
                    None => None,
                    Some(read) => Some(read?),
                },
                config_path: config_path?,
                mirror_only: arguments.mirror_only,
                output: output?,
            })
        };
        faults.settle(settings())
    }
}

/// The secret of this node's mirror. None is created here.
fn node_secret(file: &Path) -> Result<NodeSecret, String> {
    if !file.exists() {
        return Err(format!(
            "{} does not exist; name the file that the mirror has as --node-secret-file, or leave the option out",
            file.display()
        ));
    }
    hosts::secret::ensure(file).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}
