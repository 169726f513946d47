//! What is written down later and off the runtime's threads: tags, and when objects were used.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use oci::Digest;
use parking_lot::{Condvar, Mutex};

use crate::index::Index;
use crate::journal::Journal;
use crate::store::Shared;

/// Use times younger than this may be lost in a crash.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// What the housekeeper is to do.
#[derive(Default)]
pub(crate) struct Wake {
    due: Mutex<Due>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Due {
    index: bool,
    end: bool,
}

impl Wake {
    /// Asks for `index.json` to be written. Many asking are served by one writing.
    pub(crate) fn index(&self) {
        self.due.lock().index = true;
        self.changed.notify_one();
    }

    fn end(&self) {
        self.due.lock().end = true;
        self.changed.notify_one();
    }

    fn wait(&self) -> Due {
        let mut due = self.due.lock();
        if !due.index && !due.end {
            self.changed.wait_for(&mut due, SAVE_EVERY);
        }
        let told = *due;
        due.index = false;
        told
    }
}

/// The thread; ends when this is dropped.
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
                    round(&own, &mut index, due);
                    if due.end {
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

impl Drop for Housekeeper {
    fn drop(&mut self) {
        self.shared.wake.end();
        if let Some(thread) = self.thread.take() {
            // It has no way to panic that would not have been told already.
            let _ = thread.join();
        }
    }
}

fn round(shared: &Shared, index: &mut Index, due: Due) {
    if due.index
        && let Err(error) = index.write(&shared.folder, &shared.catalog)
    {
        tracing::warn!(%error, "cannot write the tags of the store; check the disk under --store-path");
    }
    if let Err(error) = save_uses(shared) {
        tracing::warn!(%error, "cannot write the journal of the store; check the disk under --store-path");
    }
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
    if journal.is_long(objects) {
        *journal = rewrite(shared)?;
        return Ok(());
    }
    journal.record_uses(&uses)
}

/// Writes the journal anew. The caller holds it, so that no object is between its line and the catalog.
fn rewrite(shared: &Shared) -> io::Result<Journal> {
    let digests = shared.catalog.digests();
    let objects: Vec<_> = digests
        .into_iter()
        .filter_map(|digest| {
            let object = shared.catalog.object(&digest)?;
            let used = shared.state.lock().space.used(&digest);
            Some((digest, object, used))
        })
        .collect();
    let records = objects.iter().map(|(d, object, used)| (d, object, *used));
    Journal::rewrite(&shared.folder, records)
}
