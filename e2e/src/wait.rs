//! Waits for a condition, never for time to pass.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

/// The interval between checks of a condition.
pub const POLL: Duration = Duration::from_millis(50);

/// The limit of a condition: far longer than it should take, so that a slow machine does not fail a test.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the condition holds. If it does not, the error contains `what` and the condition's last error.
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
