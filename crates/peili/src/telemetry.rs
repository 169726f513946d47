//! Logs on standard error: JSON lines, as Spegel writes them, or text. SIGUSR1 and SIGUSR2 change their level.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt};

use crate::fault::Faults;

/// The highest log levels of libraries.
const LIBRARIES: [(&str, LevelFilter); 7] = [
    ("h2", LevelFilter::WARN),
    ("hyper", LevelFilter::WARN),
    ("libp2p", LevelFilter::WARN),
    // It warns that there are no peers, which is normal for the first node of a cluster.
    ("libp2p_kad", LevelFilter::ERROR),
    ("multistream_select", LevelFilter::WARN),
    ("tonic", LevelFilter::WARN),
    ("yamux", LevelFilter::WARN),
];

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Text,
}

/// The log level, which can be changed while the process runs.
pub struct LogLevel {
    at_start: Targets,
    current: Handle<Targets, Registry>,
}

impl LogLevel {
    /// Logs at DEBUG from SIGUSR1 on, and as at the start from SIGUSR2 on. Never returns.
    ///
    /// # Errors
    /// The signals cannot be handled.
    pub fn follow_signals(self) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
        let mut more = signal(SignalKind::user_defined1()).context("cannot handle SIGUSR1")?;
        let mut back = signal(SignalKind::user_defined2()).context("cannot handle SIGUSR2")?;
        Ok(async move {
            loop {
                let (level, targets) = tokio::select! {
                    _ = more.recv() => ("DEBUG", targets(LevelFilter::DEBUG)),
                    _ = back.recv() => ("as at the start", self.at_start.clone()),
                };
                match self.current.reload(targets) {
                    Ok(()) => tracing::warn!(level, "the level of the log was changed by a signal"),
                    Err(error) => tracing::warn!(%error, "the level of the log cannot be changed"),
                }
            }
        })
    }
}

/// # Errors
/// The level or the format is invalid.
pub fn install(level: &str, format: &str) -> anyhow::Result<LogLevel> {
    let mut faults = Faults::default();
    let level = faults.take("--log-level", parse_level(level));
    let format = faults.take("--log-format", parse_format(format));
    let (level, format) = faults.settle(level.zip(format))?;
    // DEBUG lines of libraries are useful only to their authors; RUST_LOG enables them.
    let named = std::env::var("RUST_LOG")
        .ok()
        .and_then(|text| text.parse::<Targets>().ok());
    let at_start = named.unwrap_or_else(|| targets(level));
    let (filter, current) = reload::Layer::new(at_start.clone());
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        Format::Json => layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
        Format::Text => layer.with_ansi(false).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .context("cannot install logging")?;
    Ok(LogLevel { at_start, current })
}

fn targets(level: LevelFilter) -> Targets {
    let quiet = LIBRARIES.map(|(library, most)| (library, most.min(level)));
    Targets::new().with_default(level).with_targets(quiet)
}

fn parse_level(text: &str) -> Result<LevelFilter, String> {
    match text.to_ascii_uppercase().as_str() {
        "DEBUG" => Ok(LevelFilter::DEBUG),
        "INFO" => Ok(LevelFilter::INFO),
        "WARN" => Ok(LevelFilter::WARN),
        "ERROR" => Ok(LevelFilter::ERROR),
        _ => Err(format!(
            "{text:?} is not a level; write DEBUG, INFO, WARN or ERROR"
        )),
    }
}

fn parse_format(text: &str) -> Result<Format, String> {
    match text {
        "json" => Ok(Format::Json),
        "text" => Ok(Format::Text),
        _ => Err(format!("{text:?} is neither json nor text")),
    }
}
