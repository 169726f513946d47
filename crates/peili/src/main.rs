//! The binary: command line and wiring, nothing else.

mod address;
mod cleanup;
mod cli;
mod cluster_doctor;
mod cluster_trial;
mod completions;
mod configuration;
mod credentials;
mod demo;
mod descriptors;
#[cfg(test)]
mod docs;
mod doctor;
mod duration;
mod fault;
mod images;
mod kubectl;
mod man;
mod network_key_file;
mod next_hosts;
mod observe;
mod peer_tls_dir;
mod pull;
mod pull_test;
mod readiness;
mod registry;
mod secret_file;
mod service_manager;
mod settings;
mod show;
mod size;
mod telemetry;
mod traces;
mod ui;
mod value;
mod version;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Command};
use crate::fault::Faults;

/// The threads for the work of all connections. A mirror shares its node with the workload that it serves: it must not
/// use as many threads as the node has cores.
const WORKERS: usize = 4;
/// The limit for running reads and writes when the process ends.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Faults>() => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("peili: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let log_level = telemetry::install(&cli.log_level, &cli.log_format)?;
    // One provider for every TLS connection of the process: two of them would panic at run time.
    let installed = tls::provider().install_default();
    debug_assert!(installed.is_ok(), "the provider is installed once");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(WORKERS))
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        let shutdown = shutdown()?;
        tokio::spawn(log_level.follow_signals()?);
        match cli.command {
            Command::Registry(arguments) => Box::pin(registry::run(&arguments, shutdown)).await,
            Command::Configuration(arguments) => configuration::run(&arguments, shutdown).await,
            Command::Cleanup(arguments) => cleanup::run(&arguments, shutdown).await,
            Command::CleanupWait(arguments) => cleanup::wait(&arguments, shutdown).await,
            Command::Ui(arguments) => ui::run(&arguments, shutdown).await,
            Command::Images(arguments) => images::run(&arguments, shutdown).await,
            Command::Pull(arguments) => Box::pin(pull::run(&arguments, shutdown)).await,
            Command::PullTest(arguments) => pull_test::run(&arguments).await,
            Command::Doctor(arguments) if arguments.trial => {
                cluster_trial::run(&arguments, shutdown).await
            }
            Command::Doctor(arguments) if arguments.cluster => {
                cluster_doctor::run(&arguments).await
            }
            Command::Doctor(arguments) => doctor::run(&arguments, shutdown).await,
            Command::Status(arguments) => show::status(&arguments, shutdown).await,
            Command::Peers(arguments) => show::peers(&arguments, shutdown).await,
            Command::Demo(arguments) => demo::run(&arguments, shutdown).await,
            Command::Completions(arguments) => completions::run(&arguments),
            Command::Man(arguments) => man::run(&arguments),
            Command::Version(arguments) => version::run(&arguments),
        }
    });
    // A blocked disk must not keep the process from ending.
    runtime.shutdown_timeout(LEAVE_LIMIT);
    result
}

/// Cancelled by the first SIGTERM or SIGINT; a second one ends the process at once.
fn shutdown() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        for count in 0.. {
            let (name, code) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 143),
                _ = interrupt.recv() => ("SIGINT", 130),
            };
            if count > 0 {
                std::process::exit(code);
            }
            tracing::info!(signal = name, "shutting down; a second signal ends at once");
            cancelled.cancel();
        }
    });
    Ok(token)
}
