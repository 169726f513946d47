//! The work of retaining: takes leases, checks disk and clock, releases leases.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oci::Digest;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::kept::{Blob, Kept, MAX_KEPT, Reason};
use super::{Change, Retain};
use crate::client::{CallError, Client};
use crate::leases::{Collect, Lease, whole_seconds};
use crate::listing::blocking;
use crate::metrics::{Released, RetainMetrics};
use crate::{Namespace, blobs};

/// The interval between checks of the disk.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The minimal interval between checks, so that blobs that expire together are released together: containerd collects
/// garbage each time.
const LOOK_SOONEST: Duration = Duration::from_secs(1);
/// The most leases taken at once. Enough for thirty small images pulled at once: with 16, most of their layers were
/// collected before their turn (containerd 2.1, measured).
const MAX_CALLS: usize = 64;
/// A lease that lasts longer than the time to retain is written anew, unless the difference is this small: clocks are
/// often set back a little.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The mirror's leases, those of each blob in all namespaces.
#[derive(Clone)]
struct Leases {
    client: Client,
    namespaces: Arc<[Namespace]>,
}

impl Leases {
    async fn list(&self) -> Result<Vec<Lease>, CallError> {
        let mut leases = Vec::new();
        for namespace in self.namespaces.iter() {
            leases.extend(self.client.leases(namespace).await?);
        }
        Ok(leases)
    }

    async fn take(&self, lease: &Lease) -> Result<(), CallError> {
        for namespace in self.namespaces.iter() {
            self.client.lease(namespace, lease).await?;
        }
        Ok(())
    }

    async fn give_up(&self, digest: &Digest, collect: Collect) -> Result<(), CallError> {
        for namespace in self.namespaces.iter() {
            self.client.unlease(namespace, digest, collect).await?;
        }
        Ok(())
    }
}

/// An attempt to take a lease, and its result.
struct Taken {
    digest: Digest,
    blob: Blob,
    result: Result<(), CallError>,
}

pub(super) struct Keeper {
    limits: Retain,
    leases: Leases,
    content: Arc<Path>,
    metrics: RetainMetrics,
    kept: Kept,
    /// The leases being taken, at most [`MAX_CALLS`]. containerd writes them one by one; concurrent calls wait no
    /// longer for their turn than the pulls' own writes.
    calls: JoinSet<Taken>,
    /// The bytes above the limit of the disk at the last check.
    excess: u64,
    /// Whether a failed call was logged already.
    warned: bool,
}

impl Keeper {
    pub fn new(
        limits: Retain,
        client: Client,
        namespaces: Arc<[Namespace]>,
        content: Arc<Path>,
        metrics: RetainMetrics,
    ) -> Self {
        Self {
            limits,
            leases: Leases { client, namespaces },
            content,
            metrics,
            kept: Kept::default(),
            calls: JoinSet::new(),
            excess: 0,
            warned: false,
        }
    }

    /// Runs until all senders of changes are gone.
    pub async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        let listed = self.list().await;
        self.or_warn(listed);
        let mut look = Instant::now();
        loop {
            tokio::select! {
                Some(taken) = self.calls.join_next() => {
                    self.taken(taken);
                    if self.is_too_much() {
                        look = Instant::now();
                    }
                }
                () = tokio::time::sleep_until(look) => {
                    self.look().await;
                    look = Instant::now() + self.rest();
                }
                change = changes.recv(), if self.calls.len() < MAX_CALLS => match change {
                    Some(change) => self.change(change).await,
                    None => return,
                },
            }
            self.metrics.holds(self.kept.len(), self.kept.bytes());
        }
    }

    /// Lists the leases of earlier sessions and processes.
    async fn list(&mut self) -> Result<(), CallError> {
        for Lease { digest, expires } in self.leases.list().await? {
            let before = self.kept.remove(&digest);
            let blob = Blob {
                size: blobs::size(&self.content, &digest).unwrap_or(0),
                expires: before.map_or(expires, |before| before.expires.min(expires)),
            };
            self.kept.insert(digest, blob);
        }
        let (blobs, bytes) = (self.kept.len(), self.kept.bytes());
        if blobs > 0 {
            tracing::info!(blobs, bytes, "found layers retained earlier");
        }
        Ok(())
    }

    async fn change(&mut self, change: Change) {
        match change {
            Change::Appeared { digest, size } => {
                // A blob that cannot stay must not push out others.
                let fits = self.excess == 0 && size <= self.limits.bytes;
                if fits && !self.kept.contains(&digest) {
                    self.keep(digest, size);
                }
            }
            Change::Gone { digest } => {
                self.settle().await;
                let given_up = self.give_up(&digest, Collect::Later).await;
                self.or_warn(given_up);
            }
        }
    }

    /// When a blob expires whose lease is taken now.
    fn expiry(&self, digest: &Digest, now: SystemTime) -> SystemTime {
        let committed = blobs::committed(&self.content, digest).unwrap_or(now);
        // A clock that was set back must not extend the time.
        whole_seconds(committed.min(now) + self.limits.time)
    }

    fn keep(&mut self, digest: Digest, size: u64) {
        let now = SystemTime::now();
        let expires = self.expiry(&digest, now);
        if expires <= now {
            return;
        }
        let (leases, blob) = (self.leases.clone(), Blob { size, expires });
        self.calls.spawn(async move {
            let lease = Lease { digest, expires };
            let result = leases.take(&lease).await;
            let Lease { digest, .. } = lease;
            Taken {
                digest,
                blob,
                result,
            }
        });
    }

    fn taken(&mut self, taken: Result<Taken, JoinError>) {
        let Ok(taken) = taken else {
            return;
        };
        match taken.result {
            Ok(()) => self.kept.insert(taken.digest, taken.blob),
            // Leases that were taken only in part expire.
            error => self.or_warn(error),
        }
    }

    fn is_too_much(&self) -> bool {
        self.kept.bytes() > self.limits.bytes || self.kept.len() > MAX_KEPT
    }

    /// Waits for the results of all leases being taken.
    async fn settle(&mut self) {
        while let Some(taken) = self.calls.join_next().await {
            self.taken(taken);
        }
    }

    /// Releases what is due. containerd collects garbage once, with the last lease.
    async fn look(&mut self) {
        self.settle().await;
        self.excess = self.disk_excess().await;
        let now = SystemTime::now();
        if let Err(error) = self.shorten(now).await {
            return self.or_warn(Err(error));
        }
        let due = self.kept.due(now, self.limits.bytes, self.excess);
        let last = due.len().saturating_sub(1);
        for (n, (digest, reason)) in due.into_iter().enumerate() {
            let collect = if n == last {
                Collect::Now
            } else {
                Collect::Later
            };
            match self.give_up(&digest, collect).await {
                Ok(()) => {
                    self.metrics.released.get_or_create(&reason.into()).inc();
                    tracing::debug!(%digest, ?reason, "no longer retained");
                }
                Err(error) => return self.or_warn(Err(error)),
            }
        }
    }

    /// Writes leases anew that were taken while the clock was ahead. containerd cannot change a lease, so a blob is
    /// without one for a moment: if it is collected then, it is pulled again.
    async fn shorten(&mut self, now: SystemTime) -> Result<(), CallError> {
        let latest = now + self.limits.time + CLOCK_TOLERANCE;
        for (digest, Blob { size, .. }) in self.kept.expiring_after(latest) {
            let expires = self.expiry(&digest, now);
            self.give_up(&digest, Collect::Later).await?;
            let lease = Lease { digest, expires };
            self.leases.take(&lease).await?;
            self.kept.insert(lease.digest, Blob { size, expires });
        }
        Ok(())
    }

    async fn give_up(&mut self, digest: &Digest, collect: Collect) -> Result<(), CallError> {
        if self.kept.contains(digest) {
            self.leases.give_up(digest, collect).await?;
            self.kept.remove(digest);
        }
        Ok(())
    }

    /// The bytes above the limit of the disk.
    async fn disk_excess(&self) -> u64 {
        let content = self.content.clone();
        match blocking(move || rustix::fs::statvfs(&*content)).await {
            Ok(Ok(disk)) => excess(
                disk.f_blocks.saturating_mul(disk.f_frsize),
                disk.f_bavail.saturating_mul(disk.f_frsize),
                self.limits.disk_percent,
            ),
            // containerd makes the folder with the first ingest.
            Ok(Err(error)) => {
                tracing::debug!(%error, "how full the disk is, is not known");
                0
            }
            Err(_) => 0,
        }
    }

    /// The time until the next check.
    fn rest(&self) -> Duration {
        let first = self.kept.first_expiry();
        let left = first.map(|f| f.duration_since(SystemTime::now()).unwrap_or_default());
        left.map_or(LOOK_EVERY, |left| left.clamp(LOOK_SOONEST, LOOK_EVERY))
    }

    fn or_warn(&mut self, result: Result<(), CallError>) {
        let Err(error) = result else {
            return;
        };
        self.metrics.failures.inc();
        if std::mem::replace(&mut self.warned, true) {
            tracing::debug!(%error, "a layer is not retained, or not released");
        } else {
            tracing::warn!(
                "containerd {error}; layers may not be retained; existing leases still expire on time"
            );
        }
    }
}

/// The bytes in use above `percent` of a disk, as a kubelet counts them: free means available to users other than root.
fn excess(total: u64, available: u64, percent: u8) -> u64 {
    let spare = u128::from(total) * u128::from(100_u8.saturating_sub(percent)) / 100;
    u64::try_from(spare)
        .unwrap_or(u64::MAX)
        .saturating_sub(available)
}

impl From<Reason> for Released {
    fn from(reason: Reason) -> Self {
        let reason = match reason {
            Reason::Expired => "expired",
            Reason::Size => "size",
            Reason::Pressure => "pressure",
        };
        Self { reason }
    }
}

#[cfg(test)]
mod tests {
    use super::excess;

    #[test]
    fn a_disk_is_full_as_a_kubelet_counts() {
        assert_eq!(excess(1000, 150, 85), 0);
        assert_eq!(excess(1000, 149, 85), 1);
        assert_eq!(excess(1000, 0, 85), 150);
        assert_eq!(excess(1000, 0, 100), 0);
        assert_eq!(excess(0, 0, 85), 0);
        assert_eq!(excess(u64::MAX, u64::MAX, 1), 0);
    }
}
