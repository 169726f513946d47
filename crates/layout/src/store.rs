//! The store: its state in memory, and the mirror's two traits on it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use mirror::{
    Begun, Catalog, Growing, Health, Ingest, Intake, IntakeError, Object, Store, StoredObject,
    Visibility,
};
use oci::{Digest, TagName};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;

use crate::checks::{Check, Checks};
use crate::disk::{self, Disk};
use crate::error::OpenError;
use crate::folder::{Folder, INDEX};
use crate::housekeeper::{Housekeeper, Wake};
use crate::identity::Identity;
use crate::intake;
use crate::journal::Journal;
use crate::load::{Loaded, load};
use crate::metrics::Metrics;
use crate::space::Space;
use crate::tags::Tags;

/// The most attempts to begin an intake, if the object keeps arriving meanwhile.
const BEGIN_TRIES: u32 = 8;

/// The path of a store, and its limit.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder. It is created if it is missing.
    pub path: PathBuf,
    /// The most bytes of its objects, those being taken in included.
    pub limit: u64,
}

/// A store over an OCI image layout.
pub struct Layout {
    shared: Arc<Shared>,
    /// Ends, and writes what is left to write, when the store is dropped.
    housekeeper: Housekeeper,
}

/// Tells whether a store that is being dropped, or something begun with it, may still write into its folder.
pub struct Writers(Weak<Shared>);

impl Writers {
    pub fn are_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Layout {
    pub fn writers(&self) -> Writers {
        Writers(Arc::downgrade(&self.shared))
    }

    /// Opens the store and reads its content. Reads the disk, so it must not run on a runtime's thread; objects added
    /// by other tools are read whole, once.
    ///
    /// # Errors
    /// The folder is in use, is not a layout, or cannot be read and written.
    pub fn open(options: &Options, registry: &mut Registry) -> Result<Self, OpenError> {
        let (folder, outage) = Folder::open(&options.path)?;
        let Loaded {
            catalog,
            tags,
            space,
            mut index,
            journal,
            verified,
            mut outage,
        } = load(&folder, options.limit, outage)?;
        if outage.is_none()
            && let Err(error) = index.write(&folder, &catalog)
        {
            let path = folder.path(INDEX);
            if !disk::takes_no_more(&error) {
                return Err(OpenError::Io {
                    path,
                    source: error,
                });
            }
            outage = Some(disk::explain(&path, &error));
        }
        let disk = Disk::default();
        if let Some(outage) = outage {
            disk.failed(&outage, 0);
        }
        let metrics = Metrics::register(registry);
        metrics.show(&space);
        let shared = Arc::new(Shared {
            folder,
            catalog,
            metrics,
            wake: Wake::default(),
            checks: Checks::default(),
            disk,
            journal: Mutex::new(journal),
            state: Mutex::new(State {
                space,
                tags,
                ingests: HashMap::new(),
                verified,
                checks: HashMap::new(),
                unsaved_uses: HashSet::new(),
                removals: 0,
            }),
        });
        let housekeeper = Housekeeper::start(shared.clone(), index);
        let layout = Self {
            housekeeper: housekeeper.map_err(OpenError::io(&options.path))?,
            shared,
        };
        let started = layout.shared.verify_in_the_background();
        started.map_err(OpenError::io(&options.path))?;
        Ok(layout)
    }
}

/// What the store, its intakes and its housekeeper share. Locks are taken in this order: journal, state, catalog.
pub(crate) struct Shared {
    pub(crate) folder: Folder,
    pub(crate) catalog: Catalog,
    pub(crate) metrics: Metrics,
    pub(crate) wake: Wake,
    pub(crate) checks: Checks,
    pub(crate) disk: Disk,
    /// Held from the line about an object until the object is in the catalog, so that a journal rewritten from the
    /// catalog is complete. Commits therefore run one after the other.
    pub(crate) journal: Mutex<Journal>,
    pub(crate) state: Mutex<State>,
}

/// Its lock is held for a few renames at the longest.
pub(crate) struct State {
    pub(crate) space: Space,
    pub(crate) tags: Tags,
    pub(crate) ingests: HashMap<Digest, Growing>,
    /// The identity of each object's file when its bytes were last found right, since the start.
    pub(crate) verified: HashMap<Digest, Identity>,
    /// Verifications that run alongside requests.
    pub(crate) checks: HashMap<Digest, Check>,
    /// The objects used since uses were last written to disk.
    pub(crate) unsaved_uses: HashSet<Digest>,
    /// The number of files moved away so far, which names the next one.
    pub(crate) removals: u64,
}

impl State {
    /// Records a use of an object, if it is in the store.
    pub(crate) fn touch(&mut self, digest: &Digest) {
        if self.space.size(digest).is_some() {
            self.space.touch(digest);
            self.unsaved_uses.insert(digest.clone());
        }
    }
}

impl Shared {
    /// Reserves `bytes` for an intake of an object of `size`.
    pub(crate) fn promise(&self, bytes: u64, size: u64) -> Result<(), IntakeError> {
        let mut state = self.state.lock();
        let limit = state.space.limit();
        if size > limit {
            let path = self.folder.root().to_owned();
            return Err(IntakeError::TooLarge { path, size, limit });
        }
        let promised = state.space.promise(bytes);
        promised.map_err(|_| IntakeError::Crowded { limit })
    }

    /// Explains an error of the disk and what can be done about it. `needed`: the bytes that could not be written.
    pub(crate) fn failed(&self, path: &Path, error: &io::Error, needed: u64) -> io::Error {
        let error = disk::explain(path, error);
        self.disk.failed(&error, needed);
        if matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ) {
            self.wake.mend();
        }
        error
    }

    /// Writes the future state of an object to disk, in a sound journal. The caller holds it.
    pub(crate) fn record(
        &self,
        journal: &mut Journal,
        digest: &Digest,
        object: &Object,
        used: u64,
    ) -> io::Result<()> {
        if !journal.is_sound() {
            *journal = self.renew_journal()?;
        }
        journal.record(digest, object, used)
    }

    /// Rewrites the journal, in a complete folder. The caller holds it, so that no object is between its line and the
    /// catalog.
    pub(crate) fn renew_journal(&self) -> io::Result<Journal> {
        self.folder.prepare().map_err(OpenError::into_io)?;
        let digests = self.catalog.digests();
        let objects: Vec<_> = digests
            .into_iter()
            .filter_map(|digest| {
                let object = self.catalog.object(&digest)?;
                let used = self.state.lock().space.used(&digest);
                Some((digest, object, used))
            })
            .collect();
        let records = objects.iter().map(|(d, object, used)| (d, object, *used));
        Journal::rewrite(&self.folder, records)
    }
}

#[cfg(test)]
impl Layout {
    /// Ends the housekeeper's thread, as a panic would.
    pub(crate) fn end_housekeeping(&self) {
        self.shared.wake.end();
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        self.shared.checks.end();
    }
}

impl Store for Layout {
    fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<StoredObject>> {
        let Some(content) = self.shared.open(digest)? else {
            return Ok(None);
        };
        // Looked up after the content was opened. An object that was evicted meanwhile is private, too.
        let visibility = self.shared.catalog.visibility(digest);
        Ok(Some(StoredObject {
            content,
            visibility: visibility.unwrap_or(Visibility::Private),
        }))
    }

    fn contains(&self, digest: &Digest) -> io::Result<bool> {
        self.shared.contains(digest)
    }

    /// The ingest has no id: the mirror itself fetches the object, and so does not need to detect itself.
    fn ingest(&self, digest: &Digest) -> io::Result<Option<Ingest>> {
        let growing = self.shared.state.lock().ingests.get(digest).cloned();
        Ok(growing.map(|growing| Ingest { id: None, growing }))
    }

    /// The mirror itself fetches all objects of this store.
    fn downloads_share_slots(&self) -> bool {
        false
    }

    /// Ready while objects can be stored and removed.
    fn health(&self) -> Health {
        if self.housekeeper.has_failed() {
            let text = "the thread that keeps the store's files in order has failed; restart peili";
            return Health::Waiting(text.into());
        }
        self.shared.disk.health()
    }

    fn report_damaged(&self, digest: &Digest) {
        self.shared.reported(digest);
    }
}

impl Intake for Layout {
    fn begin(&self, digest: &Digest) -> Result<Begun, IntakeError> {
        for _ in 0..BEGIN_TRIES {
            if self.shared.open(digest)?.is_some() {
                return Ok(Begun::Present);
            }
            let mut state = self.shared.state.lock();
            if let Some(growing) = state.ingests.get(digest) {
                return Ok(Begun::Joined(growing.clone()));
            }
            // It may have arrived since the first check; then it can be opened.
            if state.space.size(digest).is_none() {
                let (sink, growing) = intake::begin(&self.shared, &mut state, digest)?;
                return Ok(Begun::New(Box::new(sink), growing));
            }
        }
        let text = format!("{digest} is replaced in the store again and again");
        Err(io::Error::other(text).into())
    }

    /// Written to disk a moment later. If the manifest is not in the store, the tag is removed: its earlier target is
    /// outdated.
    fn tag(&self, name: &TagName, digest: &Digest) {
        let Shared { catalog, wake, .. } = &*self.shared;
        let mut state = self.shared.state.lock();
        let has_changed = match state.space.size(digest) {
            Some(_) => state.tags.set(catalog, name, digest),
            None => state.tags.remove(catalog, name),
        };
        if has_changed {
            wake.index();
        }
    }
}
