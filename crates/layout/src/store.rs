//! The store: what it holds in memory, and the mirror's two traits over it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mirror::{Begun, Catalog, Content, Growing, Health, Intake, IntakeError, Store};
use oci::{Digest, TagName};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;

use crate::error::OpenError;
use crate::files;
use crate::folder::{Folder, INDEX, REMOVED};
use crate::housekeeper::{Housekeeper, Wake};
use crate::intake;
use crate::journal::Journal;
use crate::load::{Loaded, load};
use crate::metrics::Metrics;
use crate::space::Space;
use crate::tags::Tags;

/// Where a store lies and how large it may become.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder; made where it is missing.
    pub path: PathBuf,
    /// Bytes that its objects may have together, those on their way included.
    pub limit: u64,
}

/// A store over an OCI image layout.
pub struct Layout {
    shared: Arc<Shared>,
    /// Ends, and writes what is left to write, when the store is dropped.
    _housekeeper: Housekeeper,
}

impl Layout {
    /// Opens the store and takes stock of it. Reads the disk, so it does not belong on a runtime's thread; objects
    /// that other tools put there are read whole, once.
    ///
    /// # Errors
    /// The folder is in use, is something else than a layout, or cannot be read and written.
    pub fn open(options: &Options, registry: &mut Registry) -> Result<Self, OpenError> {
        let folder = Folder::open(&options.path)?;
        let Loaded {
            catalog,
            tags,
            space,
            mut index,
            journal,
        } = load(&folder, options.limit)?;
        index
            .write(&folder, &catalog)
            .map_err(OpenError::io(&folder.path(INDEX)))?;
        let metrics = Metrics::register(registry);
        metrics.show(&space);
        let shared = Arc::new(Shared {
            folder,
            catalog,
            metrics,
            wake: Wake::default(),
            journal: Mutex::new(journal),
            state: Mutex::new(State {
                space,
                tags,
                ingests: HashMap::new(),
                unsaved_uses: HashSet::new(),
                removals: 0,
            }),
        });
        let housekeeper =
            Housekeeper::start(shared.clone(), index).map_err(OpenError::io(&options.path))?;
        Ok(Self {
            shared,
            _housekeeper: housekeeper,
        })
    }
}

/// What the store, its intakes and its housekeeper share. Locks are taken in this order: journal, state, catalog.
pub(crate) struct Shared {
    pub(crate) folder: Folder,
    pub(crate) catalog: Catalog,
    pub(crate) metrics: Metrics,
    pub(crate) wake: Wake,
    /// Held from the line about an object until the object is in the catalog: whoever writes the journal anew from the
    /// catalog forgets nothing. Commits therefore follow one another.
    pub(crate) journal: Mutex<Journal>,
    pub(crate) state: Mutex<State>,
}

/// The lock on it is held for a few renames at the longest.
pub(crate) struct State {
    pub(crate) space: Space,
    tags: Tags,
    pub(crate) ingests: HashMap<Digest, Growing>,
    /// Used since that was last written down.
    pub(crate) unsaved_uses: HashSet<Digest>,
    /// Names of files on their way out.
    removals: u64,
}

impl State {
    fn touch(&mut self, digest: &Digest) {
        self.space.touch(digest);
        self.unsaved_uses.insert(digest.clone());
    }
}

impl Shared {
    /// Promises `bytes` to an intake of an object of `size`.
    pub(crate) fn promise(&self, bytes: u64, size: u64) -> Result<(), IntakeError> {
        let mut state = self.state.lock();
        let limit = state.space.limit();
        if size > limit {
            return Err(IntakeError::TooLarge { size, limit });
        }
        state.space.promise(bytes).map_err(|_| {
            let full = "all of --store-limit is taken by objects on their way in; raise it";
            io::Error::new(io::ErrorKind::StorageFull, full).into()
        })
    }

    /// Makes room for `bytes` that are promised, removing what was not used for longest.
    pub(crate) fn claim(&self, bytes: u64) {
        let leaving = {
            let mut state = self.state.lock();
            let victims = state.space.claim(bytes);
            self.metrics.evictions.inc_by(victims.len() as u64);
            self.forget(&mut state, &victims);
            victims
                .iter()
                .filter_map(|digest| self.take_out(&mut state, &self.folder.blob(digest)))
                .collect::<Vec<_>>()
        };
        for path in leaving {
            Self::remove(&path);
        }
    }

    /// Moves a file that is forgotten out of the way, and says which one there is left to remove: removing a large one
    /// takes time, and once it is out of the way the same object may come in again.
    pub(crate) fn take_out(&self, state: &mut State, path: &Path) -> Option<PathBuf> {
        state.removals += 1;
        let leaving = self.folder.ingest(&format!("{REMOVED}{}", state.removals));
        match fs::rename(path, &leaving) {
            Ok(()) => Some(leaving),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn_of_removal(path, &error);
                }
                None
            }
        }
    }

    /// Removes what was taken out, without a lock.
    pub(crate) fn remove(path: &Path) {
        if let Err(error) = files::remove(path) {
            warn_of_removal(path, &error);
        }
    }

    /// Makes objects invisible, with the tags that point at them.
    fn forget(&self, state: &mut State, digests: &[Digest]) {
        for digest in digests {
            state.space.remove(digest);
            state.unsaved_uses.remove(digest);
            self.catalog.remove(digest);
            if state.tags.forget(&self.catalog, digest) {
                self.wake.index();
            }
        }
        self.metrics.show(&state.space);
    }

    /// Opens an object that is counted. One that somebody removed behind our back is no longer.
    fn open(&self, state: &mut State, digest: &Digest) -> io::Result<Option<Content>> {
        let Some(size) = state.space.size(digest) else {
            return Ok(None);
        };
        let path = self.folder.blob(digest);
        match files::open_to_read(&path) {
            Ok(file) => {
                state.touch(digest);
                let file = Arc::new(file);
                Ok(Some(Content::File { file, size }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(%digest, "somebody removed an object from the store");
                self.forget(state, std::slice::from_ref(digest));
                Ok(None)
            }
            Err(error) => {
                let text = format!("cannot open {}: {error}", path.display());
                Err(io::Error::new(error.kind(), text))
            }
        }
    }
}

fn warn_of_removal(path: &Path, error: &io::Error) {
    let path = path.display();
    tracing::warn!(%path, %error, "cannot remove a file of the store");
}

impl Store for Layout {
    fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<Content>> {
        self.shared.open(&mut self.shared.state.lock(), digest)
    }

    /// Never: what is on its way here the mirror fetches, for whoever asked, and that proves nothing about who asks.
    fn is_ingesting(&self, _: &Digest) -> bool {
        false
    }

    fn ingest(&self, digest: &Digest, _: Option<u64>) -> io::Result<Option<Growing>> {
        Ok(self.shared.state.lock().ingests.get(digest).cloned())
    }

    /// The mirror itself fetches what comes here.
    fn downloads_share_slots(&self) -> bool {
        false
    }

    /// A store that was opened is ready.
    fn health(&self) -> Health {
        Health::Ready
    }
}

impl Intake for Layout {
    fn begin(&self, digest: &Digest) -> Result<Begun, IntakeError> {
        let mut state = self.shared.state.lock();
        if let Some(growing) = state.ingests.get(digest) {
            return Ok(Begun::Joined(growing.clone()));
        }
        if let Some(content) = self.shared.open(&mut state, digest)? {
            return Ok(Begun::Present(content));
        }
        let (sink, growing) = intake::begin(&self.shared, &mut state, digest)?;
        Ok(Begun::New(Box::new(sink), growing))
    }

    /// Is on disk a moment later. Of a manifest that could not be kept nothing is remembered, and that the tag pointed
    /// elsewhere before is no longer true.
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
