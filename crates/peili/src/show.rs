//! `peili status` and `peili peers`: the report of this node's mirror, or of another one.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use ::status::text;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use hosts::probe::{self, Endpoint};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::cli::{ShowArgs, StatusArgs};
use crate::fault::Faults;

/// The interval between updates with `--watch`.
const PERIOD: Duration = Duration::from_secs(1);
/// The paths of the mirror's status, and of its cluster's.
const STATUS: &str = "/api/v1/status";
const CLUSTER: &str = "/api/v1/cluster";
/// The limit for an answer: for a report, the mirror waits for peers and registries for 2 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Clears the screen and moves to its beginning (ECMA-48).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Text,
    Json,
}

impl std::str::FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is neither text nor json")),
        }
    }
}

/// `peili status`.
///
/// # Errors
/// The arguments are at fault, or the mirror does not answer.
pub async fn status(arguments: &StatusArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    match arguments.cluster {
        false => run(&arguments.show, shutdown, STATUS, text::status).await,
        true => run(&arguments.show, shutdown, CLUSTER, text::cluster).await,
    }
}

/// `peili peers`.
///
/// # Errors
/// The arguments are at fault, or the mirror does not answer.
pub async fn peers(arguments: &ShowArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    run(arguments, shutdown, STATUS, text::peers).await
}

/// Shows a mirror's answer at a path, once or until `shutdown`.
///
/// # Errors
/// The arguments are at fault, or the mirror does not answer.
pub async fn run<T: DeserializeOwned>(
    arguments: &ShowArgs,
    shutdown: CancellationToken,
    path: &str,
    form: fn(&T) -> String,
) -> anyhow::Result<()> {
    let mut faults = Faults::default();
    let endpoint = faults.take("--metrics-endpoint", arguments.ask.metrics_endpoint.parse());
    let output = faults.take("--output", arguments.ask.output.parse());
    let all = || Some((endpoint?, output?));
    let (endpoint, output): (Endpoint, Output) = faults.settle(all())?;
    loop {
        let bytes = get(&endpoint, path).await?;
        let shown = match output {
            Output::Json => String::from_utf8_lossy(&bytes).into_owned() + "\n",
            Output::Text => {
                let shown = serde_json::from_slice(&bytes);
                form(&shown.with_context(|| {
                    format!("the mirror does not answer {path} as this version does")
                })?)
            }
        };
        let clears = arguments.watch && output == Output::Text && std::io::stdout().is_terminal();
        let mut stdout = std::io::stdout().lock();
        write!(stdout, "{}{shown}", if clears { CLEAR } else { "" })?;
        stdout.flush()?;
        drop(stdout);
        if !arguments.watch {
            return Ok(());
        }
        let waits = shutdown.run_until_cancelled(tokio::time::sleep(PERIOD));
        if waits.await.is_none() {
            return Ok(());
        }
    }
}

/// A mirror's answer, or an error that says what to do.
///
/// # Errors
/// It does not answer.
pub async fn get(endpoint: &Endpoint, path: &str) -> anyhow::Result<Bytes> {
    ask(endpoint, path).await.or_else(|error| {
        bail!(
            "the mirror at {endpoint} does not answer: {error}\nStart it (systemctl start peili), or name the address of its \
             metrics with --metrics-endpoint. In Kubernetes: kubectl exec POD -c registry -- peili status"
        )
    })
}

/// A mirror's answer at its port of metrics.
///
/// # Errors
/// It does not answer.
pub async fn ask(endpoint: &Endpoint, path: &str) -> Result<Bytes, String> {
    let mut error = "the name has no address".to_owned();
    let answers = probe::get_all(endpoint, path, ANSWER_LIMIT).await;
    for (_, answer) in answers.map_err(|error| error.to_string())? {
        match answer {
            Ok(bytes) => return Ok(bytes),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}
