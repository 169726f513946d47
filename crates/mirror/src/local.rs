//! Have we got it: the third step of a pull.

use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use oci::{Digest, MAX_MANIFEST_SIZE, Manifest, MediaType, Reference};

use crate::access::Access;
use crate::found::{Found, Payload, Source};
use crate::request::{Kind, Target};
use crate::{Content, Store};

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
            size: content.size(),
            payload: content.into(),
            source: Source::Local,
        })),
        Kind::Manifest => Ok(manifest(digest, read(&content)?, Source::Local)),
    }
}

/// Bytes that are a manifest, whatever their sender calls them; `None` for anything else.
pub fn manifest(digest: &Digest, bytes: Bytes, source: Source) -> Option<Found> {
    let media_type = Manifest::parse(&bytes).ok()?.media_type;
    Some(Found {
        digest: digest.clone(),
        media_type,
        size: bytes.len() as u64,
        payload: Payload::Bytes(bytes),
        source,
    })
}

/// The bytes of an object that may be a manifest; `None` if it is not here or cannot be read.
pub fn manifest_bytes(store: &dyn Store, digest: &Digest) -> Option<Bytes> {
    let content = store.open(digest).ok()??;
    read(&content).ok()
}

/// Reads a manifest whole. What is too large to be one comes back empty, which no manifest is.
fn read(content: &Content) -> io::Result<Bytes> {
    match content {
        Content::Bytes(bytes) => Ok(bytes.clone()),
        Content::File { size, .. } if *size > MAX_MANIFEST_SIZE => Ok(Bytes::new()),
        Content::File { file, size } => {
            let mut bytes = vec![0; *size as usize];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes.into())
        }
    }
}
