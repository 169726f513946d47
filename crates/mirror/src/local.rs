//! Does this node have it? A step of the pipeline.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oci::{Digest, MAX_MANIFEST_SIZE, MediaType, Reference};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::access::Access;
use crate::found::{Found, Payload, Source};
use crate::request::{Kind, Target};
use crate::verification::{self, Verification};
use crate::{Content, Ingest, IngestStage, Store, Visibility};

/// Manifests up to this size are held in memory until they are sent, in bytes. Larger ones are read again piece by piece:
/// any object up to [`MAX_MANIFEST_SIZE`] can be asked for as a manifest, by many clients that take their time.
const MAX_HELD: usize = 16 * 1024;

/// How long an answer waits for the store to find an object damaged.
const DAMAGE_LIMIT: Duration = Duration::from_millis(500);

/// How long an answer waits for the store to open an object, and to read it if it is asked for as a manifest. A disk that
/// hangs leaves the other steps of a pull their time: containerd from 2.3 waits 30 s for the head of an answer.
const OPEN_LIMIT: Duration = Duration::from_secs(2);

/// Finds what is asked for in this node's store. `None`: not here, or not for this caller, or not readable within
/// [`OPEN_LIMIT`]; then the search goes on elsewhere.
pub async fn find(store: &Arc<dyn Store>, access: &Access, target: &Target) -> Option<Found> {
    let digest = match &target.reference {
        Reference::Digest(digest) => digest.clone(),
        Reference::Tag(_) => store.catalog().resolve(&target.tag_name()?)?,
    };
    let (kind, sees_private) = (
        target.kind,
        access.shows(Visibility::Private, target.caller),
    );
    let named = digest.clone();
    let found = read_store(store, move |store| open(store, kind, &named, sees_private)).await;
    found.and_then(|found| found).unwrap_or_else(|error| {
        tracing::warn!(%digest, %error, "cannot read local content; looking for it elsewhere");
        None
    })
}

/// Finds what is on its way into the store. `None`: nothing is, or it cannot be told within [`OPEN_LIMIT`].
pub async fn ingest(store: &Arc<dyn Store>, digest: &Digest) -> Option<Ingest> {
    let named = digest.clone();
    let found = read_store(store, move |store| store.ingest(&named)).await;
    found.and_then(|found| found).unwrap_or_else(|error| {
        tracing::warn!(%digest, %error, "cannot read the ingest; this pull takes part in no flight");
        None
    })
}

/// Does what reads the store's disk where it holds up nobody else.
///
/// # Errors
/// It takes longer than [`OPEN_LIMIT`]. It then ends unheeded.
pub async fn read_store<T: Send + 'static>(
    store: &Arc<dyn Store>,
    work: impl FnOnce(&dyn Store) -> T + Send + 'static,
) -> io::Result<T> {
    let store = store.clone();
    let done = timeout(OPEN_LIMIT, spawn_blocking(move || work(&*store))).await;
    let late = |_| {
        let text = format!("the disk of the store gave no answer within {OPEN_LIMIT:?}");
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    done.map_err(late)?.map_err(io::Error::other)
}

/// `sees_private`: whether the caller may have private content.
fn open(
    store: &dyn Store,
    kind: Kind,
    digest: &Digest,
    sees_private: bool,
) -> io::Result<Option<Found>> {
    let Some(object) = store.open(digest)? else {
        return Ok(None);
    };
    if object.visibility == Visibility::Private && !sees_private {
        return Ok(None);
    }
    let content = object.content;
    match kind {
        Kind::Blob => {
            if verification::verify_small(store.catalog(), digest, &content)? == Verification::Wrong
            {
                damaged(store, digest);
                return Ok(None);
            }
            let size = Some(content.size());
            Ok(Some(Found::blob(
                digest,
                size,
                content.into(),
                Source::Local,
            )))
        }
        Kind::Manifest => {
            let Some(bytes) = read(&content)? else {
                return Ok(None);
            };
            if !digest.verifies(&bytes) {
                damaged(store, digest);
                return Ok(None);
            }
            let large = bytes.len() > MAX_HELD;
            let mut found = manifest(digest, bytes, None, Source::Local);
            if large {
                found.payload = content.into();
            }
            Ok(Some(found))
        }
    }
}

fn damaged(store: &dyn Store, digest: &Digest) {
    tracing::warn!(
        %digest,
        "an object of this node's store is damaged: its bytes are not what its digest names; looking for it elsewhere"
    );
    store.report_damaged(digest);
}

/// What was found here, unless it shows within [`DAMAGE_LIMIT`] that its bytes are not what its digest names. A store
/// that still compares them lets none out before, where the object is small.
pub async fn unless_damaged(found: Found) -> Option<Found> {
    if let Payload::Growing(growing) = &found.payload {
        let mut growing = growing.clone();
        let begun = growing.until(|p| p.written > 0 || p.stage != IngestStage::Filling);
        if let Ok(progress) = timeout(DAMAGE_LIMIT, begun).await
            && progress.stage == IngestStage::Failed
        {
            return None;
        }
    }
    Some(found)
}

/// Bytes that were asked for as a manifest, by this digest, and that it verifies. They are handed over whatever their
/// form. `sent_as`: the media type of whoever sent them, for a document that tells none.
pub fn manifest(
    digest: &Digest,
    bytes: Bytes,
    sent_as: Option<MediaType>,
    source: Source,
) -> Found {
    let media_type = MediaType::of_manifest(&bytes, sent_as);
    let size = Some(bytes.len() as u64);
    Found::new(digest, media_type, size, Payload::Bytes(bytes), source)
}

/// The bytes of an object that may be a manifest, unverified and for this node's own use; `None` if it is not here or
/// cannot be read. Reads the disk.
pub fn manifest_bytes(store: &dyn Store, digest: &Digest) -> Option<Bytes> {
    let object = store.open(digest).ok()??;
    read(&object.content).ok()?
}

/// Some bytes of an object, at an offset that nobody can foresee; `None` if it is not here or is empty. At most `most`.
pub fn sample(store: &dyn Store, digest: &Digest, most: u64) -> Option<(u64, Bytes)> {
    let content = store.open(digest).ok()??.content;
    let last_offset = content.size().saturating_sub(most);
    let offset = rand::random_range(0..=last_offset);
    let bytes = read_part(&content, offset, most)?;
    (!bytes.is_empty()).then_some((offset, bytes))
}

/// Whether an object may be a JSON document, such as a manifest or a config, by its first byte. Layers are archives.
pub fn looks_like_document(store: &dyn Store, digest: &Digest) -> bool {
    let Ok(Some(object)) = store.open(digest) else {
        return true;
    };
    if object.content.size() > MAX_MANIFEST_SIZE {
        return false;
    }
    // RFC 8259 allows white space before a value.
    let first = read_part(&object.content, 0, 16);
    let first = first.as_deref().map(<[u8]>::trim_ascii_start);
    first.is_none_or(|first| matches!(first, [] | [b'{' | b'[' | 0xef, ..]))
}

fn read_part(content: &Content, offset: u64, most: u64) -> Option<Bytes> {
    let length = content.size().checked_sub(offset)?.min(most);
    let file = match content {
        Content::Bytes(bytes) => {
            let range = usize::try_from(offset).ok()?..usize::try_from(offset + length).ok()?;
            return Some(bytes.slice(range));
        }
        Content::File { file, .. } => file,
        Content::Verifying { growing, .. } => growing.file(),
    };
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes.into())
}

/// Reads a manifest whole; `None` if it is too large to be one.
fn read(content: &Content) -> io::Result<Option<Bytes>> {
    match content {
        Content::Bytes(bytes) => Ok(Some(bytes.clone())),
        Content::File { file, size } => read_file(file, *size),
        Content::Verifying { growing, size } => read_file(growing.file(), *size),
    }
}

fn read_file(file: &File, size: u64) -> io::Result<Option<Bytes>> {
    if size > MAX_MANIFEST_SIZE {
        return Ok(None);
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes.into()))
}

#[cfg(test)]
mod tests;
