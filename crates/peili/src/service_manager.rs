//! What systemd, or another service manager that gives `NOTIFY_SOCKET`, is told (sd_notify(3)). Without one, nothing.

use std::sync::Arc;
use std::time::Duration;

use mirror::Mirror;
use sd_notify::NotifyState;

/// How often the status is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Says that the ports are open, and from then on what `/readyz` says, whenever that changes.
///
/// READY=1 does not wait for containerd or for peers: units that are ordered after this one would wait with it.
pub async fn notify(mirror: Arc<Mirror>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return std::future::pending().await;
    }
    tell(&[NotifyState::Ready]);
    let mut told = String::new();
    loop {
        let status = mirror.health().to_string();
        if status != told {
            tell(&[NotifyState::Status(&status)]);
            told = status;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Says that this process is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
