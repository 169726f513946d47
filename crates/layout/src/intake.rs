//! Takes in an object: writes it to a file of its own, hashes it meanwhile, and moves it into `blobs/` if it is
//! correct.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use mirror::{Growing, IngestStage, IntakeError, Object, Progress, Provenance, Sink};
use oci::{Digest, Hasher};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::files;
use crate::folder::JOURNAL;
use crate::identity::{self, Identity};
use crate::store::{Shared, State};

/// Room is made this many bytes ahead of what is written, not for everything that a peer announces: a peer that
/// announces much and sends little does not empty a store.
const CLAIM_AHEAD: u64 = 16 * 1024 * 1024;

/// Begins an intake. No other one of this digest is running: the caller holds the state and has checked.
pub(crate) fn begin(
    shared: &Arc<Shared>,
    state: &mut State,
    digest: &Digest,
) -> io::Result<(FileSink, Growing)> {
    let name = format!("{}-{}", digest.algorithm(), digest.encoded());
    let path = shared.folder.ingest(&name);
    // Followers read through the same descriptor, each at its own offset.
    let file = files::create(&path).map_err(|error| shared.failed(&path, &error, 0))?;
    let file = Arc::new(file);
    let (progress, reader) = watch::channel(Progress {
        written: 0,
        total: None,
        stage: IngestStage::Filling,
    });
    let growing = Growing::new(file.clone(), reader);
    state.ingests.insert(digest.clone(), growing.clone());
    let ingest = Ingest {
        shared: shared.clone(),
        digest: digest.clone(),
        path,
        file,
        hasher: Some(Hasher::new(digest)),
        written: 0,
        expected: None,
        promised: 0,
        claimed: 0,
        progress,
        is_committed: false,
    };
    let ingest = Some(Box::new(ingest));
    Ok((FileSink { ingest, written: 0 }, growing))
}

/// An open intake. Dropping it gives it up and removes its file.
struct Ingest {
    shared: Arc<Shared>,
    digest: Digest,
    path: PathBuf,
    file: Arc<File>,
    /// `None` once it has returned its digest.
    hasher: Option<Hasher>,
    written: u64,
    expected: Option<u64>,
    /// The bytes of the limit that are reserved for it.
    promised: u64,
    /// The reserved bytes for which there is room already.
    claimed: u64,
    progress: watch::Sender<Progress>,
    is_committed: bool,
}

impl Ingest {
    fn expect(&mut self, size: u64) -> Result<(), IntakeError> {
        if size < self.written {
            return Err(IntakeError::TooLong { expected: size });
        }
        self.promise_up_to(size)?;
        self.expected = Some(size);
        self.progress.send_modify(|p| p.total = Some(size));
        Ok(())
    }

    fn promise_up_to(&mut self, size: u64) -> Result<(), IntakeError> {
        let more = size.saturating_sub(self.promised);
        if more > 0 {
            self.shared.promise(more, size)?;
            self.promised = size;
        }
        Ok(())
    }

    /// Makes room for the first `size` bytes, which are reserved, and for some more.
    fn claim_up_to(&mut self, size: u64) {
        if size > self.claimed {
            let goal = self.promised.min(size.saturating_add(CLAIM_AHEAD));
            self.shared.claim(goal - self.claimed);
            self.claimed = goal;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        let size = self.written.saturating_add(bytes.len() as u64);
        if let Some(expected) = self.expected.filter(|expected| size > *expected) {
            return Err(IntakeError::TooLong { expected });
        }
        self.promise_up_to(size)?;
        self.claim_up_to(size);
        let written = self.file.write_all_at(bytes, self.written);
        written.map_err(|error| self.failed(&error, size))?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.written = size;
        self.progress.send_modify(|p| p.written = size);
        Ok(())
    }

    fn commit(mut self, provenance: Provenance) -> Result<(), IntakeError> {
        let digest = self.digest.clone();
        let is_whole = self.expected.is_none_or(|size| size == self.written);
        let computed = self.hasher.take().map(Hasher::finish);
        if !is_whole || computed.as_ref() != Some(&digest) {
            return Err(IntakeError::Mismatch { digest });
        }
        self.seal()?;
        let object = Object {
            size: self.written,
            origins: provenance.origin.into_iter().collect(),
            visibility: provenance.visibility,
        };
        let written = self.written;
        let shared = self.shared.clone();
        let mut journal = shared.journal.lock();
        let used = shared.state.lock().space.next_use();
        let recorded = shared.record(&mut journal, &digest, &object, used);
        recorded.map_err(|error| shared.failed(&shared.folder.path(JOURNAL), &error, written))?;
        let admitted = shared.folder.admit(&self.path, &digest);
        admitted.map_err(|error| self.failed(&error, written))?;
        // The rename was the last change of the file by this process.
        let identity = Identity::of(&self.file).ok();
        // It is durable. From now on all readers see it.
        let mut state = shared.state.lock();
        self.is_committed = true;
        state.ingests.remove(&digest);
        state.space.release(self.promised, self.claimed);
        state.space.insert(digest.clone(), object.size);
        if let Some(identity) = identity {
            state.note_verified(&digest, identity);
        }
        shared.metrics.show(&state.space);
        shared.catalog.insert(digest.clone(), object);
        drop((state, journal));
        shared.disk.wrote(written);
        self.progress.send_modify(|p| {
            p.total = Some(written);
            p.stage = IngestStage::Complete;
        });
        Ok(())
    }
}

impl Ingest {
    /// Writes the file to disk in its final state.
    fn seal(&self) -> Result<(), IntakeError> {
        // Without it, the background of the next start detects an immediate change a little later.
        let _ = identity::seal(&self.file);
        let synced = self.file.sync_all();
        synced.map_err(|error| self.failed(&error, self.written))?;
        let found = Identity::of(&self.file).map_err(|error| self.failed(&error, self.written))?;
        if found.size != self.written {
            let digest = self.digest.clone();
            return Err(IntakeError::Mismatch { digest });
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error, needed: u64) -> io::Error {
        let needed = self.expected.unwrap_or(needed);
        self.shared.failed(&self.path, error, needed)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.is_committed {
            return;
        }
        let mut state = self.shared.state.lock();
        // Within the lock: the next intake of this digest uses the same name.
        let leaving = self.shared.take_out(&mut state, &self.path);
        state.space.release(self.promised, self.claimed);
        state.ingests.remove(&self.digest);
        self.shared.metrics.failed_intakes.inc();
        drop(state);
        if let Some(path) = leaving {
            Shared::remove(&path);
        }
        self.progress.send_modify(|p| p.stage = IngestStage::Failed);
    }
}

/// The sink that an async task writes to. The disk's work is done on the runtime's blocking threads, one piece at a
/// time for each intake.
pub(crate) struct FileSink {
    /// `None` while a piece of work runs, and after one has failed. A cancelled call leaves it to its work, which gives
    /// it up at the end.
    ingest: Option<Box<Ingest>>,
    written: u64,
}

impl FileSink {
    async fn run<F>(&mut self, work: F) -> Result<(), IntakeError>
    where
        F: FnOnce(&mut Ingest) -> Result<(), IntakeError> + Send + 'static,
    {
        let mut ingest = self.take()?;
        let done = spawn_blocking(move || work(&mut ingest).map(|()| ingest));
        let ingest = done.await.map_err(io::Error::other)??;
        self.written = ingest.written;
        self.ingest = Some(ingest);
        Ok(())
    }

    fn take(&mut self) -> io::Result<Box<Ingest>> {
        let failed = || io::Error::other("this intake has failed before");
        self.ingest.take().ok_or_else(failed)
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn expect(&mut self, size: u64) -> Result<(), IntakeError> {
        self.run(move |ingest| ingest.expect(size)).await
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), IntakeError> {
        self.run(move |ingest| ingest.write(&bytes)).await
    }

    fn written(&self) -> u64 {
        self.written
    }

    async fn commit(mut self: Box<Self>, provenance: Provenance) -> Result<(), IntakeError> {
        let ingest = self.take()?;
        spawn_blocking(move || ingest.commit(provenance))
            .await
            .map_err(io::Error::other)?
    }
}
