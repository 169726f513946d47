//! Notifies systemd, or another service manager that sets `NOTIFY_SOCKET` (sd_notify(3)). Without one, does nothing.

use std::sync::Arc;
use std::time::Duration;

use mirror::Mirror;
use sd_notify::NotifyState;

/// The interval between checks of the status.
const PERIOD: Duration = Duration::from_secs(1);

/// Reports that the ports are open, and from then on the text of `/readyz` whenever it changes.
///
/// READY=1 does not wait for containerd or for peers: units ordered after this one would wait as well.
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

/// Reports that this process is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
