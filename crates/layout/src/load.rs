//! What is in the folder when a store is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::path::Path;

use mirror::{Catalog, Object, Visibility};
use oci::{Digest, Hasher, MAX_MANIFEST_SIZE, Manifest, Origin};

use crate::error::OpenError;
use crate::files::{self, read_bounded};
use crate::folder::{Folder, JOURNAL};
use crate::index::Index;
use crate::journal::{self, Journal, Record};
use crate::space::Space;
use crate::tags::Tags;

/// Bytes read at once when an object is verified.
const VERIFY_BUFFER: usize = 256 * 1024;

pub(crate) struct Loaded {
    pub(crate) catalog: Catalog,
    pub(crate) tags: Tags,
    pub(crate) space: Space,
    pub(crate) index: Index,
    pub(crate) journal: Journal,
}

/// What lies in `blobs/`, by whether the journal knows it.
#[derive(Default)]
struct Stock {
    ours: BTreeMap<Digest, Record>,
    others: BTreeMap<Digest, Record>,
    /// Ours, but no longer of the size that they were taken in with.
    broken: Vec<Digest>,
}

/// Takes stock: objects of ours as the journal knows them, others' after verifying them; then keeps the limit. Removes
/// only what the journal knows, and nothing before it is certain that the folder is not refused.
pub(crate) fn load(folder: &Folder, limit: u64) -> Result<Loaded, OpenError> {
    let index = Index::read(folder)?;
    let mut stock = take_stock(folder)?;
    let mut space = Space::new(limit);
    let mut by_use: Vec<_> = stock.ours.iter().map(|(d, r)| (r.used, d)).collect();
    by_use.sort();
    for (_, digest) in by_use {
        space.insert(digest.clone(), stock.ours[digest].object.size);
    }
    let sizes = stock.others.values().map(|r| r.object.size);
    let held = sizes.fold(0, u64::saturating_add);
    let path = folder.path("blobs");
    space
        .promise(held)
        .map_err(|_| OpenError::OverLimit { path, held, limit })?;
    verify_others(folder, &mut stock, &index)?;

    folder.clear_ingest()?;
    for digest in &stock.broken {
        tracing::warn!(%digest, "removed from the store: its bytes are not what its name says");
        remove(folder, digest)?;
    }
    for digest in space.claim(held) {
        tracing::warn!(%digest, "removed: the store holds more than --store-limit");
        stock.ours.remove(&digest);
        remove(folder, &digest)?;
    }
    space.release(held, held);
    for (digest, record) in &stock.others {
        space.insert(digest.clone(), record.object.size);
    }
    let mut records = stock.ours;
    records.append(&mut stock.others);
    let known = records
        .iter()
        .map(|(digest, record)| (digest, &record.object, space.used(digest)));
    let journal = Journal::rewrite(folder, known).map_err(OpenError::io(&folder.path(JOURNAL)))?;
    let (catalog, mut tags) = (Catalog::default(), Tags::default());
    for (digest, record) in records {
        catalog.insert(digest, record.object);
    }
    for (name, digest) in index.tags() {
        if catalog.object(digest).is_some() {
            tags.set(&catalog, name, digest);
        }
    }
    Ok(Loaded {
        catalog,
        tags,
        space,
        index,
        journal,
    })
}

fn take_stock(folder: &Folder) -> Result<Stock, OpenError> {
    let mut known = journal::read(folder)?;
    let mut stock = Stock::default();
    for (digest, size) in folder.blobs()? {
        match known.remove(&digest) {
            Some(record) if record.object.size == size => {
                stock.ours.insert(digest, record);
            }
            Some(_) => stock.broken.push(digest),
            None => {
                let object = Object {
                    size,
                    origins: BTreeSet::new(),
                    visibility: Visibility::Private,
                };
                stock.others.insert(digest, Record { object, used: 0 });
            }
        }
    }
    Ok(stock)
}

fn verify_others(folder: &Folder, stock: &mut Stock, index: &Index) -> Result<(), OpenError> {
    let mut gone = Vec::new();
    for digest in stock.others.keys() {
        let path = folder.blob(digest);
        match verify(&path, digest) {
            Ok(true) => {}
            Ok(false) => return Err(OpenError::Damaged(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => gone.push(digest.clone()),
            Err(source) => return Err(OpenError::Io { path, source }),
        }
    }
    for digest in gone {
        stock.others.remove(&digest);
    }
    if !stock.others.is_empty() {
        tracing::info!(
            objects = stock.others.len(),
            "content that others put into the store is served to this node only"
        );
    }
    for (name, digest) in index.tags() {
        give_origin(folder, &mut stock.others, digest, &name.origin);
    }
    Ok(())
}

/// Says of others' objects where they belong: where the tag belongs from which manifests lead to them.
fn give_origin(
    folder: &Folder,
    others: &mut BTreeMap<Digest, Record>,
    root: &Digest,
    origin: &Origin,
) {
    let (mut open, mut seen) = (vec![root.clone()], BTreeSet::new());
    while let Some(digest) = open.pop() {
        let Some(record) = others.get_mut(&digest) else {
            continue;
        };
        if !seen.insert(digest.clone()) {
            continue;
        }
        record.object.origins.insert(origin.clone());
        if record.object.size <= MAX_MANIFEST_SIZE
            && let Ok(bytes) = read_bounded(&folder.blob(&digest), MAX_MANIFEST_SIZE)
            && let Ok(manifest) = Manifest::parse(&bytes)
        {
            open.extend(manifest.children.into_iter().map(|child| child.digest));
        }
    }
}

fn verify(path: &Path, digest: &Digest) -> io::Result<bool> {
    let mut file = files::open_to_read(path)?;
    let (mut hasher, mut buffer) = (Hasher::new(digest), vec![0; VERIFY_BUFFER]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish() == *digest),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn remove(folder: &Folder, digest: &Digest) -> Result<(), OpenError> {
    let path = folder.blob(digest);
    files::remove(&path).map_err(OpenError::io(&path))
}
