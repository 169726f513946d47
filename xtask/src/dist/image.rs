//! The OCI image: one program in an empty root, for each architecture, as an archive of an OCI image layout.

use std::collections::HashMap;

use anyhow::Result;
use oci_spec::image::{
    ANNOTATION_CREATED, ANNOTATION_DESCRIPTION, ANNOTATION_LICENSES, ANNOTATION_REF_NAME,
    ANNOTATION_REVISION, ANNOTATION_SOURCE, ANNOTATION_TITLE, ANNOTATION_VERSION, ConfigBuilder,
    Descriptor, DescriptorBuilder, HistoryBuilder, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, PlatformBuilder, RootFsBuilder,
    SCHEMA_VERSION, Sha256Digest,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::architecture::Architecture;
use super::archive::{self, Archive};
use super::release::{LICENSES, Release, SOURCE};

/// The path of the program in the image, which is also what is started.
const PROGRAM: &str = "/peili";
/// The annotation with the image's name for containerd's import.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A program to put into an image.
pub struct Program {
    pub architecture: &'static Architecture,
    pub bytes: Vec<u8>,
}

/// A written image.
pub struct Image {
    /// The digest of its index, as in a registry.
    pub digest: String,
    /// The image layout as a tar archive.
    pub archive: Vec<u8>,
}

/// Writes an index with one manifest for each program.
pub fn write(release: &Release, programs: &[Program]) -> Result<Image> {
    let mut layout = Layout {
        archive: Archive::new(release.time),
    };
    let manifests = programs
        .iter()
        .map(|program| manifest(release, program, &mut layout))
        .collect::<Result<Vec<_>>>()?;
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .annotations(annotations(release))
        .build()?;
    let mut index = layout.blob(MediaType::ImageIndex, json(&index)?)?;
    let digest = index.digest().to_string();
    index.set_annotations(Some(HashMap::from([
        (CONTAINERD_NAME.to_owned(), release.image_name()),
        (ANNOTATION_REF_NAME.to_owned(), release.tag()),
    ])));
    let archive = layout.close(index)?;
    Ok(Image { digest, archive })
}

fn manifest(release: &Release, program: &Program, layout: &mut Layout) -> Result<Descriptor> {
    let mut root = Archive::new(release.time);
    root.add(PROGRAM.trim_start_matches('/'), 0o755, &*program.bytes);
    let root = root.tar()?;

    let architecture = &program.architecture.oci;
    let history = HistoryBuilder::default()
        .created(release.created())
        .created_by("cargo xtask dist")
        .build()?;
    let config = ConfigBuilder::default()
        .user("0")
        .entrypoint([PROGRAM.to_owned()])
        // kubectl exec POD -- peili doctor
        .env(["PATH=/".to_owned()])
        .working_dir("/")
        .labels(annotations(release))
        .build()?;
    let config = ImageConfigurationBuilder::default()
        .created(release.created())
        .architecture(architecture.clone())
        .os(Os::Linux)
        .config(config)
        .rootfs(
            RootFsBuilder::default()
                .typ("layers")
                .diff_ids([format!("sha256:{}", sha256(&root))])
                .build()?,
        )
        .history([history])
        .build()?;

    let layer = layout.blob(MediaType::ImageLayerGzip, archive::gzip(&root)?)?;
    let config = layout.blob(MediaType::ImageConfig, json(&config)?)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers([layer])
        .annotations(annotations(release))
        .build()?;
    let mut manifest = layout.blob(MediaType::ImageManifest, json(&manifest)?)?;
    let platform = PlatformBuilder::default()
        .architecture(architecture.clone())
        .os(Os::Linux)
        .build()?;
    manifest.set_platform(Some(platform));
    Ok(manifest)
}

/// The description of the image, as labels and as annotations.
fn annotations(release: &Release) -> HashMap<String, String> {
    let pairs = [
        (ANNOTATION_CREATED, release.created()),
        (ANNOTATION_DESCRIPTION, release.description.clone()),
        (ANNOTATION_LICENSES, LICENSES.to_owned()),
        (ANNOTATION_SOURCE, SOURCE.to_owned()),
        (ANNOTATION_TITLE, "peili".to_owned()),
        (ANNOTATION_VERSION, release.version.clone()),
    ];
    let revision = release.revision.clone();
    let revision = revision.map(|revision| (ANNOTATION_REVISION, revision));
    pairs
        .into_iter()
        .chain(revision)
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// An OCI image layout that is being written.
struct Layout {
    archive: Archive,
}

impl Layout {
    fn blob(&mut self, media_type: MediaType, content: Vec<u8>) -> Result<Descriptor> {
        let digest = sha256(&content);
        let size = content.len() as u64;
        self.archive
            .add(format!("blobs/sha256/{digest}"), 0o644, content);
        let digest = digest.parse::<Sha256Digest>()?;
        Ok(DescriptorBuilder::default()
            .media_type(media_type)
            .digest(digest)
            .size(size)
            .build()?)
    }

    fn close(mut self, index: Descriptor) -> Result<Vec<u8>> {
        let layout = OciLayoutBuilder::default()
            .image_layout_version("1.0.0")
            .build()?;
        self.archive.add("oci-layout", 0o644, json(&layout)?);
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests([index])
            .build()?;
        self.archive.add("index.json", 0o644, json(&index)?);
        self.archive.tar()
    }
}

/// JSON with sorted keys: oci-spec keeps annotations and labels in unordered maps.
fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut value = serde_json::to_value(value)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
