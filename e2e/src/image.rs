//! Images with generated content.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::tar::Tar;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image: a manifest, a configuration and layers, whose content follows from its name.
pub struct Image {
    /// The registry of the image, as `host:port`.
    pub registry: String,
    pub repository: String,
    pub tag: String,
    pub manifest: Blob,
    /// The configuration first, then the layers.
    pub blobs: Vec<Blob>,
}

/// Bytes and their digest.
pub struct Blob {
    /// The digest, `sha256:<hex>`.
    pub digest: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Blob {
        Blob {
            digest: format!("sha256:{}", hex::encode(Sha256::digest(&bytes))),
            bytes,
        }
    }

    /// The digest without its algorithm.
    pub fn hex(&self) -> &str {
        self.digest.trim_start_matches("sha256:")
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

impl Image {
    /// An image with a layer of each size, in bytes. `registry` is `host:port`; every name has different content.
    pub fn generate(registry: &str, repository: &str, tag: &str, layers: &[usize]) -> Image {
        let name = format!("{registry}/{repository}:{tag}");
        let layers = layers
            .iter()
            .enumerate()
            .map(|(index, &size)| {
                let content = noise(&format!("{name} layer {index}"), size);
                Tar::default().file(&format!("layer{index}"), &content)
            })
            .collect();
        Image::of_layers(registry, repository, tag, layers, &json!({}))
    }

    /// An image of these layers. `run`: what its containers run, as in an image configuration.
    pub fn of_layers(
        registry: &str,
        repository: &str,
        tag: &str,
        layers: Vec<Tar>,
        run: &Value,
    ) -> Image {
        let layers: Vec<_> = layers
            .into_iter()
            .map(|tar| Blob::new(tar.finish()))
            .collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "author": format!("{registry}/{repository}:{tag}"),
            "config": run,
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|layer| &layer.digest).collect::<Vec<_>>(),
            },
        });
        let config = Blob::new(config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(CONFIG),
            "layers": layers.iter().map(|layer| layer.descriptor(LAYER)).collect::<Vec<_>>(),
        });
        Image {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            manifest: Blob::new(manifest.to_string().into_bytes()),
            blobs: std::iter::once(config).chain(layers).collect(),
        }
    }

    /// An image whose manifest contains a layer of another image, with its own config.
    pub fn naming(&self, repository: &str, layer: &Blob) -> Image {
        let layer = Blob::new(layer.bytes.clone());
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "author": repository,
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        });
        let config = Blob::new(config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(CONFIG),
            "layers": [layer.descriptor(LAYER)],
        });
        Image {
            registry: self.registry.clone(),
            repository: repository.to_owned(),
            tag: self.tag.clone(),
            manifest: Blob::new(manifest.to_string().into_bytes()),
            blobs: vec![config, layer],
        }
    }

    /// The reference `registry/repository:tag`.
    pub fn by_tag(&self) -> String {
        format!("{}/{}:{}", self.registry, self.repository, self.tag)
    }

    /// The reference `registry/repository@digest`.
    pub fn by_digest(&self) -> String {
        format!(
            "{}/{}@{}",
            self.registry, self.repository, self.manifest.digest
        )
    }

    /// The size of the whole image, in bytes.
    pub fn size(&self) -> u64 {
        let blobs: usize = self.blobs.iter().map(|blob| blob.bytes.len()).sum();
        (blobs + self.manifest.bytes.len()) as u64
    }

    /// The paths below `/v2/` that a pull asks a mirror for.
    pub fn paths(&self) -> Vec<String> {
        let repository = &self.repository;
        let manifests = [&self.tag, &self.manifest.digest]
            .map(|reference| format!("/v2/{repository}/manifests/{reference}"));
        let blobs = self
            .blobs
            .iter()
            .map(|blob| format!("/v2/{repository}/blobs/{}", blob.digest));
        manifests.into_iter().chain(blobs).collect()
    }

    /// The image as an archive for `ctr images import`: an OCI image layout with its name.
    pub fn archive(&self) -> Vec<u8> {
        let mut manifest = self.manifest.descriptor(MANIFEST);
        manifest["annotations"] = json!({ "io.containerd.image.name": self.by_tag() });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        self.blobs
            .iter()
            .chain([&self.manifest])
            .fold(Tar::default(), |tar, blob| {
                tar.file(&format!("blobs/sha256/{}", blob.hex()), &blob.bytes)
            })
            .file("index.json", index.to_string().as_bytes())
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .finish()
    }
}

/// Incompressible bytes, the same for the same seed: a chain of hashes.
pub fn noise(seed: &str, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 32);
    for block in 0_u64.. {
        if bytes.len() >= size {
            break;
        }
        bytes.extend(
            Sha256::new()
                .chain_update(seed)
                .chain_update(block.to_be_bytes())
                .finalize(),
        );
    }
    bytes.truncate(size);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_content_of_its_own() {
        let image = |tag| Image::generate("registry:5000", "lab/app", tag, &[1000, 2000]);
        let (one, again, other) = (image("v1"), image("v1"), image("v2"));
        assert_eq!(one.manifest.digest, again.manifest.digest);
        assert_eq!(one.blobs.len(), 3);
        for (a, b) in one.blobs.iter().zip(&other.blobs) {
            assert_ne!(a.digest, b.digest);
        }
    }
}
