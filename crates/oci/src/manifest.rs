//! Image manifests and indexes, OCI and Docker: as much of them as a mirror needs.

mod document;

use std::fmt;
use std::sync::Arc;

use crate::Digest;
use document::{Descriptor, Document};

/// The most bytes of a manifest; larger ones are neither served nor fetched (distribution-spec, "Pushing Manifests":
/// registries should accept 4 MiB; containerd reads at most 8 MiB).
pub const MAX_MANIFEST_SIZE: u64 = 4 * 1024 * 1024;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_SCHEMA_1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// The most bytes of a media type. RFC 6838, section 4.2: type and subtype have at most 127 characters each.
const MAX_MEDIA_TYPE: usize = 255;

/// A media type, as in `Content-Type`. Its text can be used unchanged in a header.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(Arc<str>);

impl MediaType {
    /// The `Accept` header with all manifests and indexes that a mirror requests.
    pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
         application/vnd.docker.distribution.manifest.list.v2+json, \
         application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

    /// Accepts a text of printable ASCII, such as the value of a `Content-Type` header. `None`: any other text, an
    /// empty one, or more than 255 bytes.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let printable = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        (printable && !text.is_empty() && text.len() <= MAX_MEDIA_TYPE).then(|| Self(text.into()))
    }

    pub fn octet_stream() -> Self {
        Self("application/octet-stream".into())
    }

    /// The media type of an object that is requested as a manifest, whatever its form: the one named in the document,
    /// else the one implied by its fields, else `hint`, else `application/octet-stream`.
    pub fn of_manifest(bytes: &[u8], hint: Option<Self>) -> Self {
        let document = read(bytes).ok();
        let own = document.as_ref().and_then(media_type);
        own.or(hint).unwrap_or_else(Self::octet_stream)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one of the present or former media types of manifests and indexes in the specifications.
    pub fn is_manifest(&self) -> bool {
        matches!(
            &*self.0,
            OCI_INDEX
                | OCI_MANIFEST
                | OCI_ARTIFACT
                | DOCKER_LIST
                | DOCKER_MANIFEST
                | DOCKER_SCHEMA_1
                | DOCKER_SCHEMA_1_SIGNED
        )
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kind of object that a descriptor in a manifest refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A manifest of an index.
    Manifest,
    Config,
    Layer,
}

/// An object that a manifest refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub digest: Digest,
    /// The size in bytes, from the manifest. `None`: it contains no valid size (schema 1, negative or fractional
    /// numbers).
    pub size: Option<u64>,
    pub role: Role,
}

/// A manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub media_type: MediaType,
    /// The objects, in the order of the document; a config before its layers, and layers from the lowest. Descriptors
    /// with an unknown algorithm are left out.
    pub children: Vec<Child>,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{0} bytes are more than the {MAX_MANIFEST_SIZE} that a manifest may have")]
    TooLarge(usize),
    #[error("not JSON of a manifest")]
    Json(#[from] serde_json::Error),
    #[error("neither an image manifest nor an index")]
    NotAManifest,
}

impl Manifest {
    /// Parses a manifest or an index of any form that clients accept: OCI, artifact, Docker schema 2 and 1, with fields
    /// that are absent, null or given twice.
    ///
    /// # Errors
    /// Neither the media type nor the fields are those of a manifest, so this also detects what an object is. Do not
    /// use it to decide whether an object requested by its digest is sent: any is ([`MediaType::of_manifest`]).
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let document = read(bytes)?;
        let media_type = media_type(&document).ok_or(ManifestError::NotAManifest)?;
        if !media_type.is_manifest() && told_by_fields(&document).is_none() {
            return Err(ManifestError::NotAManifest);
        }
        let with = |role| move |Descriptor { digest, size }| Child { digest, size, role };
        let manifests = document.manifests.descriptors.into_iter();
        let layers = document.layers.descriptors.into_iter();
        let layers = layers.chain(document.blobs.descriptors);
        let layers = layers.chain(document.fs_layers.descriptors.into_iter().rev());
        let children = manifests
            .map(with(Role::Manifest))
            .chain(document.config.descriptor.map(with(Role::Config)))
            .chain(layers.map(with(Role::Layer)))
            .collect();
        Ok(Self {
            media_type,
            children,
        })
    }
}

fn read(bytes: &[u8]) -> Result<Document, ManifestError> {
    if bytes.len() as u64 > MAX_MANIFEST_SIZE {
        return Err(ManifestError::TooLarge(bytes.len()));
    }
    Ok(Document::read(bytes)?)
}

/// The media type named in the document, or implied by its fields (OCI allows a document without one).
fn media_type(document: &Document) -> Option<MediaType> {
    let named = document.media_type.as_deref().and_then(MediaType::new);
    named.or_else(|| Some(MediaType(told_by_fields(document)?.into())))
}

/// The media type implied by the fields of a document. The config of an image also has a field `config`, so that field
/// alone does not make a manifest: it must be a descriptor, or the document must name its schema.
fn told_by_fields(document: &Document) -> Option<&'static str> {
    let descriptors = document.config.is_descriptor || !document.layers.descriptors.is_empty();
    let fields = document.config.given || document.layers.given;
    if document.manifests.given {
        Some(OCI_INDEX)
    } else if descriptors || (fields && document.schema_version == Some(2)) {
        Some(OCI_MANIFEST)
    } else if document.schema_version == Some(1) && document.fs_layers.given {
        Some(if document.signed {
            DOCKER_SCHEMA_1_SIGNED
        } else {
            DOCKER_SCHEMA_1
        })
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
