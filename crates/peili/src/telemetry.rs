//! Logs: JSON lines on standard error, as Spegel writes them.

use anyhow::Context;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::fault::Faults;

/// The most that a library says.
const LIBRARIES: [(&str, LevelFilter); 7] = [
    ("h2", LevelFilter::WARN),
    ("hyper", LevelFilter::WARN),
    ("libp2p", LevelFilter::WARN),
    // It warns of having no peers, which every first node of a cluster has.
    ("libp2p_kad", LevelFilter::ERROR),
    ("multistream_select", LevelFilter::WARN),
    ("tonic", LevelFilter::WARN),
    ("yamux", LevelFilter::WARN),
];

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
    let named = std::env::var("RUST_LOG")
        .ok()
        .and_then(|text| text.parse::<Targets>().ok());
    let filter = named.unwrap_or_else(|| {
        let quiet = LIBRARIES.map(|(library, most)| (library, most.min(level)));
        Targets::new().with_default(level).with_targets(quiet)
    });
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
