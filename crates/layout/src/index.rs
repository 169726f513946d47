//! `index.json`: the tags, as other tools read them (image-layout.md, "index.json file").

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use mirror::Catalog;
use oci::{Digest, MAX_MANIFEST_SIZE, MediaType, Name, TagName};
use serde_json::{Value, json};

use crate::error::OpenError;
use crate::files::read_bounded;
use crate::folder::{Folder, INDEX};

/// The annotation for the reference of a descriptor in an image layout's index (annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// The most bytes of the index, read or written: enough for some 50,000 tags.
const MAX_INDEX: u64 = 16 * 1024 * 1024;

/// The entries of `index.json`.
#[derive(Default)]
pub(crate) struct Index {
    tags: BTreeMap<TagName, Entry>,
    /// Entries without a name or with a foreign one: kept unchanged for as long as their object is here.
    others: Vec<Entry>,
    /// Whether the file on disk cannot be parsed. It is set aside before it is replaced.
    is_damaged: bool,
    /// Whether the last state is on disk.
    is_written: bool,
}

struct Entry {
    digest: Digest,
    descriptor: Value,
}

impl Index {
    /// Reads the index. A missing one counts as empty, and so does a Peili one that lost its bytes: tags are resolved
    /// again.
    pub(crate) fn read(folder: &Folder) -> Result<Self, OpenError> {
        let path = folder.path(INDEX);
        let fault = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Index {
            path: path.clone(),
            limit: MAX_INDEX,
            source,
        };
        let bytes = match read_bounded(&path, MAX_INDEX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(fault(error.into())),
        };
        let parsed = serde_json::from_slice::<Value>(&bytes);
        let descriptors = match &parsed {
            Ok(document) => document["manifests"].as_array(),
            Err(_) => None,
        };
        let Some(descriptors) = descriptors else {
            if folder.is_ours() {
                tracing::warn!(path = %path.display(), "the tags of the store are damaged; they are asked for again");
                return Ok(Self {
                    is_damaged: true,
                    ..Self::default()
                });
            }
            let source = parsed.map_or_else(Into::into, |_| "no list of manifests".into());
            return Err(fault(source));
        };
        let mut index = Self::default();
        for descriptor in descriptors {
            let digest = descriptor["digest"].as_str().and_then(|d| d.parse().ok());
            // An unknown algorithm: it names no object of this store.
            let Some(digest) = digest else { continue };
            let name = descriptor["annotations"][REF_NAME].as_str();
            let name = name.and_then(|text| text.parse::<Name>().ok()?.tag_name());
            let entry = Entry {
                digest,
                descriptor: descriptor.clone(),
            };
            match name {
                Some(name) => drop(index.tags.insert(name, entry)),
                None => index.others.push(entry),
            }
        }
        Ok(index)
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = (&TagName, &Digest)> {
        self.tags.iter().map(|(name, entry)| (name, &entry.digest))
    }

    /// Whether the file on disk may be older than the catalog.
    pub(crate) fn is_behind(&self) -> bool {
        !self.is_written
    }

    /// Writes the tags of the catalog whose manifests are here.
    pub(crate) fn write(&mut self, folder: &Folder, catalog: &Catalog) -> io::Result<()> {
        let mut tags = BTreeMap::new();
        for (name, digest) in catalog.tags() {
            if catalog.object(&digest).is_none() {
                continue;
            }
            let known = self.tags.remove(&name).filter(|e| e.digest == digest);
            let entry = known.or_else(|| describe(&folder.blob(&digest), &name, digest));
            if let Some(entry) = entry {
                tags.insert(name, entry);
            }
        }
        self.tags = tags;
        self.others.retain(|e| catalog.object(&e.digest).is_some());
        let entries = self.tags.values().chain(&self.others);
        let manifests: Vec<_> = entries.map(|entry| &entry.descriptor).collect();
        let document = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests});
        let bytes = serde_json::to_vec(&document)?;
        self.is_written = false;
        if bytes.len() as u64 > MAX_INDEX {
            // There will still be too many: only errors of the disk are retried.
            self.is_written = true;
            let text = format!("{} tags are too many for {INDEX}", self.tags.len());
            return Err(io::Error::other(text));
        }
        if self.is_damaged {
            folder.set_aside(INDEX)?;
            self.is_damaged = false;
        }
        let written = folder.replace(INDEX, &bytes);
        self.is_written = written.is_ok();
        written
    }
}

/// The descriptor of a tag's manifest, in whatever form. `None`: it is gone.
fn describe(blob: &Path, name: &TagName, digest: Digest) -> Option<Entry> {
    let bytes = read_bounded(blob, MAX_MANIFEST_SIZE).ok()?;
    let descriptor = json!({
        "mediaType": MediaType::of_manifest(&bytes, None).as_str(),
        "digest": digest.as_str(),
        "size": bytes.len(),
        "annotations": {REF_NAME: name.to_string()},
    });
    Some(Entry { digest, descriptor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_described_whatever_the_form_of_its_manifest() {
        let folder = tempfile::tempdir().expect("a folder");
        let name: Name = "quay.io/a/b:1".parse().expect("a name");
        let name = name.tag_name().expect("a tag");
        let path = folder.path().join("blob");
        for (bytes, media_type) in [
            (&br#"{"manifests":null}"#[..], INDEX_TYPE),
            (br#"{"mediaType":"a/b"}"#, "a/b"),
            (b"no JSON", "application/octet-stream"),
        ] {
            std::fs::write(&path, bytes).expect("a file");
            let entry = describe(&path, &name, Digest::sha256(bytes)).expect("it is here");
            assert_eq!(entry.descriptor["mediaType"], media_type);
            assert_eq!(entry.descriptor["size"], bytes.len());
        }
        let gone = folder.path().join("gone");
        assert!(describe(&gone, &name, Digest::sha256(b"")).is_none());
    }
}
