//! Finds an object in this node's store: a step of the pipeline.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oci::{Digest, MAX_MANIFEST_SIZE, MediaType, Reference};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::access::Access;
use crate::body::send_memory::{SendMemory, Share};
use crate::found::{Found, Payload, Source};
use crate::refusal::Refusal;
use crate::request::{Kind, Target};
use crate::verification::{self, Examined, Reading, VERIFIED_WHOLE};
use crate::{Content, Ingest, IngestStage, Store, Visibility};

/// Manifests up to this size, in bytes, are held in memory until they are sent. Larger ones are read again piece by
/// piece: any object up to [`MAX_MANIFEST_SIZE`] can be requested as a manifest, by many slow clients. Larger ones are
/// read whole only with memory reserved for them.
const MAX_HELD: u64 = 16 * 1024;

/// The limit of an answer's wait for the store to find an object damaged.
const DAMAGE_LIMIT: Duration = Duration::from_millis(500);

/// The limit of an answer's wait for the store to open an object, and then to read it if it must be verified. A blocked
/// disk leaves time for the other steps of a pull: containerd from 2.3 waits 30 s for the head of an answer.
const OPEN_LIMIT: Duration = Duration::from_secs(2);

/// Why the store's disk was not read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// Other clients of the same kind have used up their reads.
    #[error("too much is being read already")]
    Busy,
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// Finds the requested object in this node's store. `None`: it is not here, not for this caller, or not readable within
/// [`OPEN_LIMIT`]; then the search goes on elsewhere.
///
/// # Errors
/// There is no memory to read and verify it.
pub async fn find(
    store: &Arc<dyn Store>,
    memory: &SendMemory,
    access: &Access,
    target: &Target,
) -> Result<Option<Found>, Refusal> {
    let digest = match (&target.reference, target.tag_name()) {
        (Reference::Digest(digest), _) => Some(digest.clone()),
        (Reference::Tag(_), name) => name.and_then(|name| store.catalog().resolve(&name)),
    };
    let Some(digest) = digest else {
        return Ok(None);
    };
    let (kind, sees_private) = (
        target.kind,
        access.shows(Visibility::Private, target.caller),
    );
    let named = digest.clone();
    let work = move |store: &dyn Store, may_read| open(store, kind, &named, sees_private, may_read);
    match read_whole(store, memory.share(target.caller), work).await {
        Ok(found) => Ok(found),
        Err(Unread::Busy) => Err(Refusal::Busy(kind)),
        Err(Unread::Failed(error)) => {
            tracing::warn!(%digest, %error, "cannot read local content; looking for it elsewhere");
            Ok(None)
        }
    }
}

/// Finds an object that is being taken in, for a client with this share of the memory. `None`: there is none, or this
/// is unknown within [`OPEN_LIMIT`].
pub async fn ingest(store: &Arc<dyn Store>, share: &Share, digest: &Digest) -> Option<Ingest> {
    let named = digest.clone();
    let found = read_for(store, share, move |store| store.ingest(&named)).await;
    found.and_then(|found| Ok(found?)).unwrap_or_else(|error| {
        tracing::warn!(%digest, %error, "cannot read the ingest; this pull takes part in no flight");
        None
    })
}

/// Runs work that may read an object whole, for a client: with memory reserved if it is larger than [`MAX_HELD`].
/// `work` gets the number of bytes that it may read.
///
/// # Errors
/// There is no memory for it, or it cannot be read.
pub async fn read_whole<T: Send + 'static>(
    store: &Arc<dyn Store>,
    share: &Share,
    work: impl Fn(&dyn Store, u64) -> io::Result<Reading<T>> + Clone + Send + 'static,
) -> Result<T, Unread> {
    let first = work.clone();
    let size = match read_for(store, share, move |store| first(store, MAX_HELD)).await?? {
        Reading::Done(done) => return Ok(done),
        Reading::Large(size) => size,
    };
    let memory = share.keep(size).await.ok_or(Unread::Busy)?;
    let work = move |store: &dyn Store| {
        let _memory = memory;
        work(store, size)
    };
    match read_for(store, share, work).await?? {
        Reading::Done(done) => Ok(done),
        Reading::Large(_) => Err(io::Error::other("it is replaced while it is read").into()),
    }
}

/// Runs work that reads the store's disk for a client. Few with the same share run at a time.
///
/// # Errors
/// There is no permit, or the work takes longer, within [`OPEN_LIMIT`] each.
pub async fn read_for<T: Send + 'static>(
    store: &Arc<dyn Store>,
    share: &Share,
    work: impl FnOnce(&dyn Store) -> T + Send + 'static,
) -> Result<T, Unread> {
    let turn = timeout(OPEN_LIMIT, share.turn()).await;
    let turn = turn.map_err(|_| Unread::Busy)??;
    let work = move |store: &dyn Store| {
        // A blocked thread keeps its permit.
        let _turn = turn;
        work(store)
    };
    Ok(read_store(store, work).await?)
}

/// Runs work that reads the store's disk for the node itself, without delaying others.
///
/// # Errors
/// It takes longer than [`OPEN_LIMIT`]. Its result is then dropped.
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
    may_read: u64,
) -> io::Result<Reading<Option<Found>>> {
    let is_shown = |visibility| visibility == Visibility::Shared || sees_private;
    let Some(object) = store.open(digest)?.filter(|o| is_shown(o.visibility)) else {
        return Ok(Reading::Done(None));
    };
    let content = object.content;
    let size = content.size();
    let is_verified_elsewhere = match kind {
        Kind::Manifest if size > MAX_MANIFEST_SIZE => return Ok(Reading::Done(None)),
        Kind::Manifest => false,
        // Verified by the store itself, or by containerd.
        Kind::Blob => size > VERIFIED_WHOLE || matches!(content, Content::Verifying { .. }),
    };
    if is_verified_elsewhere {
        return Ok(Reading::Done(Some(blob(digest, content))));
    }
    let examined = match examine(store, digest, &content, may_read)? {
        Reading::Large(size) => return Ok(Reading::Large(size)),
        Reading::Done(None) => return Ok(Reading::Done(None)),
        Reading::Done(Some(examined)) => examined,
    };
    if kind == Kind::Blob {
        return Ok(Reading::Done(Some(blob(digest, content))));
    }
    let payload = match size <= MAX_HELD {
        true => {
            let bytes = read_part(&content, 0, size);
            Payload::Bytes(bytes.ok_or(io::ErrorKind::UnexpectedEof)?)
        }
        false => content.into(),
    };
    let (media_type, size) = (examined.media_type, Some(size));
    let found = Found::new(digest, media_type, size, payload, Source::Local);
    Ok(Reading::Done(Some(found)))
}

fn blob(digest: &Digest, content: Content) -> Found {
    let size = Some(content.size());
    Found::blob(digest, size, content.into(), Source::Local)
}

/// Calls [`verification::examine`], and reports a damaged object to the store.
fn examine(
    store: &dyn Store,
    digest: &Digest,
    content: &Content,
    may_read: u64,
) -> io::Result<Reading<Option<Examined>>> {
    let reading = verification::examine(store.catalog(), digest, content, may_read)?;
    if matches!(reading, Reading::Done(None)) {
        damaged(store, digest);
    }
    Ok(reading)
}

/// Whether an object is a manifest, for a client with this share of the memory. `None`: it is not here, or damaged. Reads
/// the disk if the object has not been examined yet.
///
/// # Errors
/// The same as for [`read_whole`].
pub async fn is_manifest(
    store: &Arc<dyn Store>,
    share: &Share,
    digest: &Digest,
) -> Result<Option<bool>, Unread> {
    if let Some(is_manifest) = store.catalog().is_manifest(digest) {
        return Ok(Some(is_manifest));
    }
    let digest = digest.clone();
    let work = move |store: &dyn Store, may_read| {
        let Some(object) = store.open(&digest)? else {
            return Ok(Reading::Done(None));
        };
        if !looks_like_document(store, &digest) {
            return Ok(Reading::Done(Some(false)));
        }
        let reading = examine(store, &digest, &object.content, may_read)?;
        Ok(match reading {
            Reading::Large(size) => Reading::Large(size),
            Reading::Done(examined) => Reading::Done(examined.map(|e| e.is_manifest)),
        })
    };
    read_whole(store, share, work).await
}

fn damaged(store: &dyn Store, digest: &Digest) {
    tracing::warn!(
        %digest,
        "an object of this node's store is damaged: its bytes are not what its digest names; looking for it elsewhere"
    );
    store.report_damaged(digest);
}

/// The found object, unless its bytes are found wrong within [`DAMAGE_LIMIT`]. A store that is still comparing a small
/// object releases none of its bytes before.
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

/// Bytes that were requested as a manifest, by this digest, which verifies them. They are sent whatever their form.
/// `sent_as`: the media type from the sender, for a document without one.
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

/// The bytes of an object that may be a manifest, unverified and for this node's own use. `None`: it is not here or
/// cannot be read. Reads the disk.
pub fn manifest_bytes(store: &dyn Store, digest: &Digest) -> Option<Bytes> {
    let content = store.open(digest).ok()??.content;
    let size = content.size();
    (size <= MAX_MANIFEST_SIZE).then(|| read_part(&content, 0, size))?
}

/// Some bytes of an object, `most` at most, at an unpredictable offset. `None`: it is not here or is empty.
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

#[cfg(test)]
mod tests;
