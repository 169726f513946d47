//! What is in the folder when a store is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use mirror::{Catalog, Object, Visibility};
use oci::{Digest, Hasher, MAX_MANIFEST_SIZE, Manifest, Origin};

use crate::folder::{Folder, JOURNAL, OpenError, read_bounded};
use crate::index::Index;
use crate::journal::{self, Journal, Record};
use crate::space::Space;

/// Bytes read at once when an object is verified.
const VERIFY_BUFFER: usize = 256 * 1024;

pub(crate) struct Loaded {
    pub(crate) catalog: Catalog,
    pub(crate) space: Space,
    pub(crate) index: Index,
    pub(crate) journal: Journal,
}

/// Takes stock: objects of ours as the journal knows them, others' after verifying them; then keeps the limit.
pub(crate) fn load(folder: &Folder, limit: u64) -> Result<Loaded, OpenError> {
    let index = Index::read(folder)?;
    let mut records = objects(folder, &index)?;
    let mut space = Space::new(limit);
    let mut by_use: Vec<_> = records.iter().map(|(d, r)| (r.used, d.clone())).collect();
    by_use.sort();
    for (_, digest) in by_use {
        let size = records[&digest].object.size;
        space.insert(digest, size);
    }
    for digest in space.shrink() {
        tracing::warn!(%digest, "removed: the store holds more than --store-limit");
        records.remove(&digest);
        remove(&folder.blob(&digest))?;
    }
    let known = records
        .iter()
        .map(|(digest, record)| (digest, &record.object, space.used(digest)));
    let journal = Journal::rewrite(folder, known).map_err(OpenError::io(&folder.path(JOURNAL)))?;
    let catalog = Catalog::default();
    for (digest, record) in records {
        catalog.insert(digest, record.object);
    }
    for (name, digest) in index.tags() {
        if catalog.object(digest).is_some() {
            catalog.tag(name.clone(), digest.clone());
        }
    }
    Ok(Loaded {
        catalog,
        space,
        index,
        journal,
    })
}

fn objects(folder: &Folder, index: &Index) -> Result<BTreeMap<Digest, Record>, OpenError> {
    let mut known = journal::read(folder)?;
    let blobs = folder.path("blobs");
    let (mut objects, mut foreign) = (BTreeMap::new(), BTreeSet::new());
    for (digest, size) in folder.blobs().map_err(OpenError::io(&blobs))? {
        if let Some(record) = known.remove(&digest).filter(|r| r.object.size == size) {
            objects.insert(digest, record);
            continue;
        }
        let path = folder.blob(&digest);
        if verify(&path, &digest).map_err(OpenError::io(&path))? {
            let object = Object {
                size,
                origins: BTreeSet::new(),
                visibility: Visibility::Private,
            };
            objects.insert(digest.clone(), Record { object, used: 0 });
            foreign.insert(digest);
        } else {
            tracing::warn!(%digest, "removed from the store: its bytes are not what its name says");
            remove(&path)?;
        }
    }
    if !foreign.is_empty() {
        tracing::info!(
            objects = foreign.len(),
            "content that others put into the store is served to this node only"
        );
        for (name, digest) in index.tags() {
            give_origin(folder, &mut objects, &foreign, digest, &name.origin);
        }
    }
    Ok(objects)
}

/// Says of others' objects where they belong: where the tag belongs from which manifests lead to them.
fn give_origin(
    folder: &Folder,
    objects: &mut BTreeMap<Digest, Record>,
    foreign: &BTreeSet<Digest>,
    root: &Digest,
    origin: &Origin,
) {
    let (mut open, mut seen) = (vec![root.clone()], BTreeSet::new());
    while let Some(digest) = open.pop() {
        if !foreign.contains(&digest) || !seen.insert(digest.clone()) {
            continue;
        }
        let Some(record) = objects.get_mut(&digest) else {
            continue;
        };
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
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (Hasher::new(digest), vec![0; VERIFY_BUFFER]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish() == *digest),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn remove(path: &Path) -> Result<(), OpenError> {
    fs::remove_file(path).map_err(OpenError::io(path))
}
