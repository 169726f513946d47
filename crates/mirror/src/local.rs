//! Have we got it: the third step of a pull.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::Bytes;
use oci::{Digest, MAX_MANIFEST_SIZE, MediaType, Reference};
use tokio::time::timeout;

use crate::access::Access;
use crate::found::{Found, Payload, Source};
use crate::request::{Kind, Target};
use crate::{Content, Stage, Store};

/// Manifests up to this size are held in memory until they are sent, in bytes. Larger ones are read again piece by piece:
/// any object up to [`MAX_MANIFEST_SIZE`] can be asked for as a manifest, by many clients that take their time.
const MOST_HELD: usize = 64 * 1024;

/// How long an answer waits for the store to find an object damaged.
const DAMAGE_LIMIT: Duration = Duration::from_millis(500);

/// Finds what is asked for in this node's store. `None`: not here, or not for this caller, or unreadable; then the
/// search goes on elsewhere.
pub fn find(store: &dyn Store, access: &Access, target: &Target) -> Option<Found> {
    let digest = match &target.reference {
        Reference::Digest(digest) => digest.clone(),
        Reference::Tag(_) => store.catalog().resolve(&target.tag_name()?)?,
    };
    if !access.shows(store.catalog().object(&digest).as_ref(), target.caller) {
        return None;
    }
    open(store, target.kind, &digest).unwrap_or_else(|error| {
        tracing::warn!(%digest, %error, "cannot read local content; looking for it elsewhere");
        None
    })
}

fn open(store: &dyn Store, kind: Kind, digest: &Digest) -> io::Result<Option<Found>> {
    let Some(content) = store.open(digest)? else {
        return Ok(None);
    };
    match kind {
        Kind::Blob => Ok(Some(Found {
            digest: digest.clone(),
            media_type: MediaType::octet_stream(),
            size: Some(content.size()),
            payload: content.into(),
            source: Source::Local,
        })),
        Kind::Manifest => {
            let Some(bytes) = read(&content)? else {
                return Ok(None);
            };
            if !digest.verifies(&bytes) {
                tracing::warn!(
                    %digest,
                    "an object of this node's store is damaged: its bytes are not what its digest names; looking for it elsewhere"
                );
                store.report_damaged(digest);
                return Ok(None);
            }
            let large = bytes.len() > MOST_HELD;
            let mut found = manifest(digest, bytes, None, Source::Local);
            if large {
                found.payload = content.into();
            }
            Ok(Some(found))
        }
    }
}

/// What was found here, unless it shows within [`DAMAGE_LIMIT`] that its bytes are not what its digest names. A store
/// that still compares them lets none out before, where the object is small.
pub async fn unless_damaged(found: Found) -> Option<Found> {
    if let Payload::Growing(growing, None) = &found.payload {
        let mut growing = growing.clone();
        let begun = growing.until(|p| p.written > 0 || p.stage != Stage::Filling);
        if let Ok(progress) = timeout(DAMAGE_LIMIT, begun).await
            && progress.stage == Stage::Failed
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
    Found {
        digest: digest.clone(),
        media_type: MediaType::of_manifest(&bytes, sent_as),
        size: Some(bytes.len() as u64),
        payload: Payload::Bytes(bytes),
        source,
    }
}

/// The bytes of an object that may be a manifest, unverified; `None` if it is not here or cannot be read.
pub fn manifest_bytes(store: &dyn Store, digest: &Digest) -> Option<Bytes> {
    let content = store.open(digest).ok()??;
    read(&content).ok()?
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
