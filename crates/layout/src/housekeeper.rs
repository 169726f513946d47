//! Work that is done later and not on the runtime's threads: writing tags and times of use, removing files, and
//! repairing a folder that lost parts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use oci::Digest;
use parking_lot::{Condvar, Mutex};

use crate::disk;
use crate::error::OpenError;
use crate::folder::{INDEX, JOURNAL};
use crate::index::Index;
use crate::store::Shared;

/// Times of use younger than this may be lost in a crash.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// What the housekeeper has to do.
#[derive(Default)]
pub(crate) struct Wake {
    due: Mutex<Due>,
    changed: Condvar,
}

#[derive(Default)]
struct Due {
    index: bool,
    /// The folder may lack parts, which can be created again.
    mend: bool,
    /// Files that were moved away, to be removed.
    removals: Vec<PathBuf>,
    end: bool,
}

impl Due {
    fn is_nothing(&self) -> bool {
        !self.index && !self.mend && self.removals.is_empty() && !self.end
    }
}

impl Wake {
    /// Requests that `index.json` be written. One write serves many requests.
    pub(crate) fn index(&self) {
        self.due.lock().index = true;
        self.changed.notify_one();
    }

    /// Requests that the folder be repaired.
    pub(crate) fn mend(&self) {
        self.due.lock().mend = true;
        self.changed.notify_one();
    }

    /// Requests that a file which was moved away be removed.
    pub(crate) fn remove(&self, path: PathBuf) {
        self.due.lock().removals.push(path);
        self.changed.notify_one();
    }

    pub(crate) fn end(&self) {
        self.due.lock().end = true;
        self.changed.notify_one();
    }

    fn wait(&self) -> Due {
        let mut due = self.due.lock();
        if due.is_nothing() {
            self.changed.wait_for(&mut due, SAVE_EVERY);
        }
        let end = due.end;
        Due {
            end,
            ..std::mem::replace(
                &mut due,
                Due {
                    end,
                    ..Due::default()
                },
            )
        }
    }
}

/// The housekeeper's thread. It ends when this is dropped.
pub(crate) struct Housekeeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Housekeeper {
    pub(crate) fn start(shared: Arc<Shared>, mut index: Index) -> io::Result<Self> {
        let own = shared.clone();
        let thread = std::thread::Builder::new()
            .name("layout".into())
            .spawn(move || {
                loop {
                    let due = own.wake.wait();
                    let is_last = due.end;
                    round(&own, &mut index, due);
                    if is_last {
                        break;
                    }
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

impl Housekeeper {
    /// Whether the thread has ended, which only a panic can cause.
    pub(crate) fn has_failed(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        self.shared.wake.end();
        if let Some(thread) = self.thread.take() {
            // A panic would have been reported already.
            let _ = thread.join();
        }
    }
}

fn round(shared: &Shared, index: &mut Index, due: Due) {
    for path in due.removals {
        Shared::remove(&path);
    }
    if !mend(shared) {
        // Nothing can be written while the folder cannot be complete.
        return;
    }
    if (due.index || due.mend || index.is_behind())
        && let Err(error) = index.write(&shared.folder, &shared.catalog)
    {
        tell(shared, INDEX, &error);
    }
    if let Err(error) = save_uses(shared) {
        tell(shared, JOURNAL, &error);
    }
}

/// Reports a failed write: an error of the disk counts as an outage, any other is logged.
fn tell(shared: &Shared, name: &str, error: &io::Error) {
    let path = shared.folder.path(name);
    if error.raw_os_error().is_some() {
        shared.disk.failed(&disk::explain(&path, error), 0);
    } else {
        let path = path.display();
        tracing::warn!(%path, %error, "cannot write a file of the store");
    }
}

/// Creates removed parts of the folder again, and checks whether an outage is over. Returns whether the folder is
/// complete.
fn mend(shared: &Shared) -> bool {
    let mended = shared.folder.prepare().map_err(|error| match error {
        OpenError::Io { path, source } => disk::explain(&path, &source),
        other => io::Error::other(other.to_string()),
    });
    let is_whole = mended.is_ok();
    let needed = shared.disk.needed();
    let written = mended.and_then(|()| match needed {
        Some(bytes) => {
            let written = shared.folder.try_write(bytes);
            written.map_err(|error| disk::explain(shared.folder.root(), &error))
        }
        None => Ok(()),
    });
    match written {
        Ok(()) => shared.disk.wrote(needed.unwrap_or(0)),
        Err(error) => shared.disk.failed(&error, needed.unwrap_or(0)),
    }
    is_whole
}

fn save_uses(shared: &Shared) -> io::Result<()> {
    let mut journal = shared.journal.lock();
    let (uses, objects): (Vec<(Digest, u64)>, _) = {
        let mut state = shared.state.lock();
        let digests = std::mem::take(&mut state.unsaved_uses);
        let uses = digests.into_iter().map(|digest| {
            let used = state.space.used(&digest);
            (digest, used)
        });
        (uses.collect(), state.space.len())
    };
    if journal.is_long(objects) || !journal.is_sound() {
        *journal = shared.renew_journal()?;
        return Ok(());
    }
    journal.record_uses(&uses).inspect_err(|_| {
        let digests = uses.into_iter().map(|(digest, _)| digest);
        shared.state.lock().unsaved_uses.extend(digests);
    })
}
