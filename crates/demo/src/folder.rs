//! The temporary folder with everything that the demo writes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use layout::{Layout, Writers};
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::DemoError;

/// More bytes than any image has: nothing must be evicted meanwhile.
const STORE_LIMIT: u64 = 1 << 40;
/// The limit for writers into the folder to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The folder. It is removed on drop; prefer [`Self::clear`].
pub(crate) struct Folder {
    root: TempDir,
    writers: Vec<Writers>,
    tasks: TaskTracker,
}

impl Folder {
    /// # Errors
    /// The parent cannot be written.
    pub(crate) fn new_in(parent: &Path) -> Result<Self, DemoError> {
        let root = tempfile::Builder::new()
            .prefix("peili-demo-")
            .tempdir_in(parent);
        Ok(Self {
            root: root.map_err(DemoError::Folder)?,
            writers: Vec::new(),
            tasks: TaskTracker::new(),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Checks that this many bytes may be written.
    ///
    /// # Errors
    /// There is not enough room.
    pub(crate) fn check_room(&self, needed: u64) -> Result<(), DemoError> {
        let path = self.root.path();
        let disk = rustix::fs::statvfs(path).map_err(|error| DemoError::Folder(error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < needed {
            let folder = path.parent().unwrap_or(path).to_owned();
            return Err(DemoError::Room {
                folder,
                needed,
                free,
            });
        }
        Ok(())
    }

    /// Runs work that writes into the folder, to its end even if nobody waits for it any more.
    ///
    /// # Errors
    /// It panicked.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DemoError> {
        let done = self.tasks.spawn_blocking(work).await;
        done.map_err(DemoError::Task)
    }

    /// Opens a store in a folder of its own, which may be an image layout already.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) async fn open(
        &mut self,
        name: &str,
        mut metrics: Registry,
    ) -> Result<(Arc<Layout>, Registry), DemoError> {
        let options = layout::Options {
            path: self.path(name),
            limit: STORE_LIMIT,
        };
        let opening = move || Layout::open(&options, &mut metrics).map(|layout| (layout, metrics));
        let (layout, metrics) = self.write(opening).await??;
        self.writers.push(layout.writers());
        Ok((Arc::new(layout), metrics))
    }

    /// Waits until all writers have ended, and removes everything. All of them were told to end before.
    pub(crate) async fn clear(self) {
        let Self {
            root,
            writers,
            tasks,
        } = self;
        let closed = async {
            tasks.close();
            tasks.wait().await;
            while !writers.iter().all(Writers::are_gone) {
                sleep(LOOK_AGAIN).await;
            }
        };
        // Even if some do not end in time, everything is removed.
        let _ = timeout(CLOSE_LIMIT, closed).await;
        let path = root.path().to_owned();
        let removed = spawn_blocking(move || root.close()).await;
        if let Err(error) = removed.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::error!(%error, folder = %path.display(), "cannot remove the demo's folder; remove it by hand");
        }
    }
}
