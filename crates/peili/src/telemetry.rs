//! Logs: JSON lines on standard error, as Spegel writes them.

use anyhow::Context;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::fault::Faults;

/// # Errors
/// The level is not one.
pub fn install(level: &str) -> anyhow::Result<()> {
    let mut faults = Faults::default();
    let what = || format!("{level:?} is not a level; write DEBUG, INFO, WARN or ERROR");
    let parsed = match level.to_ascii_uppercase().as_str() {
        "DEBUG" => Some(LevelFilter::DEBUG),
        "INFO" => Some(LevelFilter::INFO),
        "WARN" => Some(LevelFilter::WARN),
        "ERROR" => Some(LevelFilter::ERROR),
        _ => None,
    };
    let level = faults.take("--log-level", parsed.ok_or_else(what));
    let level = faults.settle(level)?;
    // Libraries tell at DEBUG what only their authors read; RUST_LOG brings it back.
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .from_env_lossy();
    let filter = if std::env::var_os("RUST_LOG").is_some() {
        filter
    } else {
        EnvFilter::new(format!(
            "{level},libp2p=warn,libp2p_kad=error,hyper=warn,h2=warn,tonic=warn,multistream_select=warn,yamux=warn"
        ))
    };
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .context("cannot install logging")
}
