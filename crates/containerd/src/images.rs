//! The contents of an image, read from the files of its manifests.

use std::collections::HashSet;
use std::path::Path;

use oci::{Digest, MAX_MANIFEST_SIZE, Manifest, Role};

/// The most objects followed from one image: three times an index of thirty platforms with thirty layers each.
const MAX_REACHED: usize = 3 * 30 * 32;

/// The objects reachable from an image's target, itself first: the manifests on this node and all objects that they
/// name, on this node or not. Reads each manifest once.
pub(crate) fn reached(content: &Path, target: &Digest) -> Vec<Digest> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut manifests = vec![target.clone()];
    while let Some(digest) = manifests.pop() {
        if found.len() >= MAX_REACHED || !seen.insert(digest.clone()) {
            continue;
        }
        // An index names all platforms; a node has one or two of them.
        let Some(bytes) = crate::blobs::read(content, &digest, MAX_MANIFEST_SIZE) else {
            continue;
        };
        found.push(digest);
        let children = Manifest::parse(&bytes).map_or_else(|_| Vec::new(), |m| m.children);
        for child in children {
            if child.role == Role::Manifest {
                manifests.push(child.digest);
            } else if found.len() < MAX_REACHED && seen.insert(child.digest.clone()) {
                found.push(child.digest);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(content: &Path, text: &str) -> Digest {
        let digest = Digest::sha256(text.as_bytes());
        let folder = crate::blobs::folder(content, "sha256");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(digest.encoded()), text).expect("a file");
        digest
    }

    #[test]
    fn goes_through_the_platforms_that_are_here() {
        let folder = tempfile::tempdir().expect("a folder");
        let content = folder.path();
        let (config, layer) = (Digest::sha256(b"c"), Digest::sha256(b"l"));
        let manifest = put(
            content,
            &format!(
                r#"{{"config":{{"digest":"{config}"}},"layers":[{{"digest":"{layer}"}},{{"digest":"{layer}"}}]}}"#
            ),
        );
        let absent = Digest::sha256(b"another platform");
        let index = put(
            content,
            &format!(r#"{{"manifests":[{{"digest":"{manifest}"}},{{"digest":"{absent}"}}]}}"#),
        );
        assert_eq!(
            reached(content, &index),
            [index.clone(), manifest, config, layer]
        );
        assert!(reached(content, &absent).is_empty());
        let other = put(content, "not a manifest");
        assert_eq!(reached(content, &other), std::slice::from_ref(&other));
    }
}
