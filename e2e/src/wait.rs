//! Waiting for a condition, never for time to pass.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

/// How often a condition is looked at.
pub const POLL: Duration = Duration::from_millis(50);

/// How long a condition may take: far longer than it ever should, so that a slow machine does not
/// fail a test.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the condition holds. `what` is named in the error, with what the condition last
/// failed on, when it does not come to hold.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let last = condition().await;
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            last.with_context(|| format!("waited {LIMIT:?} for: {what}"))?;
            bail!("waited {LIMIT:?} in vain for: {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}
