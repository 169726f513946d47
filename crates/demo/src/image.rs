//! A generated image, as an OCI image layout
//! ([image-layout.md](https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md)): the same
//! incompressible bytes on every machine.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use oci::{Digest, Hasher, Name};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::client;
use oci::architecture;

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// The bytes written at a time.
const CHUNK: usize = 256 * 1024;
/// The block size of an archive (POSIX.1-1988, "ustar"): headers and contents come in blocks.
const BLOCK: usize = 512;

/// Writes an image of `layers` layers with `size` bytes of files in all into `folder`, which becomes an image layout
/// with one tag.
///
/// # Errors
/// The folder cannot be written, or `stop` was cancelled.
pub(crate) fn generate(
    folder: &Path,
    name: &Name,
    size: u64,
    layers: u64,
    stop: &CancellationToken,
) -> io::Result<()> {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut descriptors = Vec::new();
    for layer in 0..layers {
        let rest = if layer == 0 { size % layers } else { 0 };
        let mut blob = Blob::create(&blobs)?;
        archive(&mut blob, layer, size / layers + rest, stop)?;
        descriptors.push(blob.finish(&blobs, LAYER_TYPE)?);
    }
    // The layers are not compressed, so the digest of each is its diff id.
    let diff_ids: Vec<&Value> = descriptors.iter().map(|d| &d["digest"]).collect();
    let config = json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture(),
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = document(&blobs, CONFIG_TYPE, &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config,
        "layers": descriptors,
    });
    let mut manifest = document(&blobs, MANIFEST_TYPE, &manifest)?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": client::text(name)});
    let index =
        json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [manifest]}).to_string();
    fs::write(folder.join("index.json"), index)?;
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
}

/// Writes a document and returns its descriptor.
fn document(blobs: &Path, media_type: &str, document: &Value) -> io::Result<Value> {
    let mut blob = Blob::create(blobs)?;
    blob.write(document.to_string().as_bytes())?;
    blob.finish(blobs, media_type)
}

/// A tar archive of one file.
fn archive(blob: &mut Blob, layer: u64, size: u64, stop: &CancellationToken) -> io::Result<()> {
    blob.write(&header(&format!("layer-{}", layer + 1), size))?;
    let mut random = Random(layer);
    let mut chunk = vec![0; CHUNK];
    let mut left = size;
    while left > 0 {
        if stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        random.fill(&mut chunk);
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        blob.write(&chunk[..length])?;
        left -= length as u64;
    }
    let padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    // Two empty blocks end an archive.
    blob.write(&[0; 3 * BLOCK][..padding + 2 * BLOCK])
}

/// The header of a regular file, in the ustar format. A size has eleven octal digits: 8 GiB.
fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut field =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, name);
    field(100, "0000644");
    field(108, "0000000");
    field(116, "0000000");
    field(124, &format!("{size:011o}"));
    field(136, "00000000000");
    // The checksum is computed with spaces in its own place.
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
struct Random(u64);

impl Random {
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            word.copy_from_slice(&z.to_le_bytes()[..word.len()]);
        }
    }
}

/// A blob that is being written: its name is known at the end.
struct Blob {
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Blob {
    fn create(blobs: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::create(blobs.join("new"))?,
            hasher: Hasher::new(&Digest::sha256(b"")),
            size: 0,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn finish(self, blobs: &Path, media_type: &str) -> io::Result<Value> {
        let digest = self.hasher.finish();
        fs::rename(blobs.join("new"), blobs.join(digest.encoded()))?;
        Ok(json!({"mediaType": media_type, "digest": digest.as_str(), "size": self.size}))
    }
}

#[cfg(test)]
mod tests {
    use oci::{Manifest, Role};

    use super::*;

    fn image(size: u64, layers: u64) -> (tempfile::TempDir, Value) {
        let folder = tempfile::tempdir().expect("a folder");
        let name: Name = "127.0.0.1:5000/demo/image:1".parse().expect("a name");
        generate(
            folder.path(),
            &name,
            size,
            layers,
            &CancellationToken::new(),
        )
        .expect("written");
        let index = fs::read(folder.path().join("index.json")).expect("there");
        let index: Value = serde_json::from_slice(&index).expect("JSON");
        (folder, index["manifests"][0].clone())
    }

    fn blob(folder: &Path, digest: &str) -> Vec<u8> {
        let digest: Digest = digest.parse().expect("a digest");
        let bytes = fs::read(folder.join("blobs/sha256").join(digest.encoded())).expect("there");
        assert!(digest.verifies(&bytes));
        bytes
    }

    #[test]
    fn every_descriptor_is_right() {
        let (folder, descriptor) = image(1_000_003, 3);
        let bytes = blob(folder.path(), descriptor["digest"].as_str().expect("text"));
        assert_eq!(descriptor["size"], bytes.len());
        let manifest = Manifest::parse(&bytes).expect("a manifest");
        let roles: Vec<Role> = manifest.children.iter().map(|child| child.role).collect();
        assert_eq!(roles, [Role::Config, Role::Layer, Role::Layer, Role::Layer]);
        let mut layers = Vec::new();
        for child in &manifest.children {
            let bytes = blob(folder.path(), child.digest.as_str());
            assert_eq!(Some(bytes.len() as u64), child.size);
            match child.role {
                Role::Layer => layers.push(json!(child.digest.as_str())),
                _ => assert_eq!(
                    serde_json::from_slice::<Value>(&bytes).expect("JSON")["os"],
                    "linux"
                ),
            }
        }
        let config = blob(folder.path(), manifest.children[0].digest.as_str());
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        assert_eq!(config["rootfs"]["diff_ids"], Value::Array(layers.clone()));
        layers.dedup();
        assert_eq!(layers.len(), 3, "each layer has bytes of its own");
        let again = image(1_000_003, 3).1;
        assert_eq!(again, descriptor, "the same on every run");
    }

    #[test]
    fn layers_are_archives() {
        let (folder, descriptor) = image(1000, 1);
        let manifest = blob(folder.path(), descriptor["digest"].as_str().expect("text"));
        let manifest = Manifest::parse(&manifest).expect("a manifest");
        let layer = blob(folder.path(), manifest.children[1].digest.as_str());
        assert_eq!(layer.len(), BLOCK + 1024 + 2 * BLOCK);
        assert_eq!(&layer[..8], b"layer-1\0");
        let mut head = layer[..BLOCK].to_vec();
        head[148..156].fill(b' ');
        let sum: u32 = head.into_iter().map(u32::from).sum();
        assert_eq!(&layer[148..154], format!("{sum:06o}").as_bytes());
        assert_eq!(&layer[124..136], b"00000001750\0");
    }

    #[test]
    fn stops_when_told_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let name: Name = "127.0.0.1:5000/demo/image:1".parse().expect("a name");
        let stop = CancellationToken::new();
        stop.cancel();
        let stopped = generate(folder.path(), &name, 1 << 40, 1, &stop);
        assert_eq!(
            stopped.expect_err("stopped").kind(),
            io::ErrorKind::Interrupted
        );
    }
}
