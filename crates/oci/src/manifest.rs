//! Image manifests and indexes, OCI and Docker schema 2: as much of them as a mirror needs.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use crate::Digest;

/// Manifests larger than this are neither served nor fetched (distribution-spec, "Pushing Manifests": registries
/// should take 4 MiB; containerd reads no more than 8 MiB).
pub const MAX_MANIFEST_SIZE: u64 = 4 * 1024 * 1024;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(Arc<str>);

impl MediaType {
    /// All manifests and indexes a mirror asks for, as an `Accept` header.
    pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
         application/vnd.docker.distribution.manifest.list.v2+json, \
         application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

    pub fn octet_stream() -> Self {
        Self("application/octet-stream".into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_manifest(&self) -> bool {
        matches!(
            &*self.0,
            OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST
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

/// What a descriptor in a manifest stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A manifest of an index.
    Manifest,
    Config,
    Layer,
}

/// An object that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub digest: Digest,
    /// In bytes, as the manifest says.
    pub size: u64,
    pub role: Role,
}

/// A manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub media_type: MediaType,
    /// In the order of the document; a config before its layers.
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
    #[error("a descriptor's digest")]
    Digest(#[from] crate::DigestError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    size: u64,
}

impl Descriptor {
    fn child(self, role: Role) -> Result<Child, ManifestError> {
        Ok(Child {
            digest: self.digest.parse()?,
            size: self.size,
            role,
        })
    }
}

impl Manifest {
    /// Reads a manifest or an index. Its media type is the document's own; a document without one (OCI allows that)
    /// is told by its fields.
    ///
    /// # Errors
    /// When the bytes are anything else, so that this is also the test of what a blob is.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MAX_MANIFEST_SIZE {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let document: Document = serde_json::from_slice(bytes)?;
        let told = match (&document.manifests, &document.config, &document.layers) {
            (Some(_), ..) => OCI_INDEX,
            (None, Some(_), Some(_)) => OCI_MANIFEST,
            _ => return Err(ManifestError::NotAManifest),
        };
        let media_type = MediaType(document.media_type.as_deref().unwrap_or(told).into());
        if !media_type.is_manifest() {
            return Err(ManifestError::NotAManifest);
        }
        let with = |role| move |d: Descriptor| d.child(role);
        let manifests = document
            .manifests
            .into_iter()
            .flatten()
            .map(with(Role::Manifest));
        let config = document.config.into_iter().map(with(Role::Config));
        let layers = document.layers.into_iter().flatten().map(with(Role::Layer));
        let children = manifests
            .chain(config)
            .chain(layers)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            media_type,
            children,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn descriptor(text: &str) -> String {
        format!(
            r#"{{"mediaType":"x","digest":"{}","size":7}}"#,
            Digest::sha256(text.as_bytes())
        )
    }

    #[test]
    fn an_image_and_its_children() {
        let json = format!(
            r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{},"layers":[{},{}]}}"#,
            descriptor("c"),
            descriptor("l"),
            descriptor("m")
        );
        let manifest = Manifest::parse(json.as_bytes()).expect("a manifest");
        assert_eq!(manifest.media_type.as_str(), DOCKER_MANIFEST);
        let roles: Vec<_> = manifest.children.iter().map(|c| (c.role, c.size)).collect();
        assert_eq!(
            roles,
            [(Role::Config, 7), (Role::Layer, 7), (Role::Layer, 7)]
        );
    }

    #[test]
    fn an_index_without_a_media_type() {
        let json = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor("m"));
        let manifest = Manifest::parse(json.as_bytes()).expect("an index");
        assert_eq!(manifest.media_type.as_str(), OCI_INDEX);
        assert_eq!(manifest.children[0].role, Role::Manifest);
    }

    #[test]
    fn anything_else_is_not_one() {
        let config = br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        for other in [
            &b""[..],
            b"{}",
            b"[]",
            b"null",
            b"\x1f\x8b\x08",
            config,
            br#"{"config":{},"layers":[]}"#,
            br#"{"manifests":[{"digest":"sha256:../../etc"}]}"#,
        ] {
            assert!(
                Manifest::parse(other).is_err(),
                "{:?}",
                String::from_utf8_lossy(other)
            );
        }
        assert!(matches!(
            Manifest::parse(&vec![b' '; 5 << 20]),
            Err(ManifestError::TooLarge(_))
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse(&bytes);
        }
    }
}
