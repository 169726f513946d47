//! Reads the content of the folder when a store is opened.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;

use mirror::{Catalog, Object, Visibility};
use oci::{Digest, MAX_MANIFEST_SIZE, Manifest, Origin};

use crate::disk;
use crate::error::OpenError;
use crate::files::{self, read_bounded};
use crate::folder::{Folder, JOURNAL};
use crate::identity::Identity;
use crate::index::Index;
use crate::journal::{self, Journal, Record};
use crate::space::Space;
use crate::tags::Tags;
use crate::verify::{Verification, verify};

pub(crate) struct Loaded {
    pub(crate) catalog: Catalog,
    pub(crate) tags: Tags,
    pub(crate) space: Space,
    pub(crate) index: Index,
    pub(crate) journal: Journal,
    /// Objects whose bytes were just found right.
    pub(crate) verified: HashMap<Digest, Identity>,
    /// Why nothing can be written.
    pub(crate) outage: Option<io::Error>,
}

/// The files in `blobs/`, by whether the journal knows them.
#[derive(Default)]
struct Stock {
    ours: BTreeMap<Digest, Record>,
    others: BTreeMap<Digest, Record>,
    /// Objects of the journal whose size has changed since their intake.
    broken: Vec<Digest>,
}

/// Collects the objects: those of the journal as it knows them, others after verifying them; then enforces the limit.
/// Removes only objects that the journal knows, and nothing before it is certain that the folder is not refused. With
/// an `outage` nothing is written.
pub(crate) fn load(
    folder: &Folder,
    limit: u64,
    mut outage: Option<io::Error>,
) -> Result<Loaded, OpenError> {
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
    let verified = verify_others(folder, &mut stock, &index)?;

    unless_full(folder.clear_ingest(), &mut outage)?;
    for digest in &stock.broken {
        tracing::warn!(%digest, "an object of the store is damaged: it has another size than it was stored with");
        unless_full(remove(folder, digest), &mut outage)?;
    }
    for digest in space.claim(held) {
        tracing::warn!(%digest, "removed: the store holds more than --store-limit");
        stock.ours.remove(&digest);
        unless_full(remove(folder, &digest), &mut outage)?;
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
    let mut journal = Journal::unwritten();
    if outage.is_none() {
        let rewritten = Journal::rewrite(folder, known).map(|written| journal = written);
        let path = folder.path(JOURNAL);
        unless_full(rewritten.map_err(OpenError::io(&path)), &mut outage)?;
    }
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
        verified,
        outage,
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

fn verify_others(
    folder: &Folder,
    stock: &mut Stock,
    index: &Index,
) -> Result<HashMap<Digest, Identity>, OpenError> {
    let (mut gone, mut verified) = (Vec::new(), HashMap::new());
    for digest in stock.others.keys() {
        let path = folder.blob(digest);
        let verification = files::open_object(&path).and_then(|(file, identity)| {
            let verification = verify(&file, identity.size, digest, |_| true)?;
            Ok((verification, identity))
        });
        match verification {
            Ok((Verification::Right, identity)) => {
                verified.insert(digest.clone(), identity);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => gone.push(digest.clone()),
            // A file that was given up and could not be removed may be there too.
            Ok(_) if folder.is_ours() => {
                unserved(&path, "its bytes are not what its name says");
                gone.push(digest.clone());
            }
            Err(error) if folder.is_ours() => {
                unserved(&path, &error.to_string());
                gone.push(digest.clone());
            }
            Ok(_) => return Err(OpenError::Damaged(path)),
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
    Ok(verified)
}

fn unserved(path: &Path, error: &str) {
    let path = path.display();
    tracing::warn!(%path, error, "a file in the store is not served; remove it");
}

/// Sets the origins of foreign objects: that of the tag from which manifests lead to them.
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

fn remove(folder: &Folder, digest: &Digest) -> Result<(), OpenError> {
    let path = folder.blob(digest);
    files::remove(&path).map_err(OpenError::io(&path))
}

/// Continues if the disk is full or read-only, and keeps the first such error.
fn unless_full(
    done: Result<(), OpenError>,
    outage: &mut Option<io::Error>,
) -> Result<(), OpenError> {
    match done {
        Err(OpenError::Io { path, source }) if disk::takes_no_more(&source) => {
            outage.get_or_insert_with(|| disk::explain(&path, &source));
            Ok(())
        }
        done => done,
    }
}
