//! The image layout, as a reader sees it.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use oci_spec::image::{Arch, ImageConfiguration, ImageIndex, ImageManifest, OciLayout};

use super::*;
use crate::dist::architecture;

fn release() -> Release {
    Release {
        version: "1.2.3".into(),
        description: "A mirror.".into(),
        revision: Some("abc".into()),
        time: 1_700_000_000,
    }
}

fn programs() -> Vec<Program> {
    let program = |architecture: &'static Architecture| Program {
        architecture,
        bytes: format!("program for {}", architecture.name).into_bytes(),
    };
    architecture::ALL.iter().map(program).collect()
}

/// The files of an archive, by their paths.
fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("entries");
    entries
        .map(|entry| {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            (path, content)
        })
        .collect()
}

/// The blob of a descriptor, with size and digest checked.
fn blob<'f>(files: &'f BTreeMap<String, Vec<u8>>, descriptor: &Descriptor) -> &'f [u8] {
    let digest = descriptor.as_digest_sha256().expect("a sha256 digest");
    let content = &files[&format!("blobs/sha256/{digest}")];
    assert_eq!(descriptor.size(), content.len() as u64);
    assert_eq!(digest, sha256(content));
    content
}

#[test]
fn two_writes_are_equal() {
    // Several times, because unordered maps may have the same order twice.
    let first = write(&release(), &programs()).expect("written");
    for _ in 0..8 {
        let again = write(&release(), &programs()).expect("written");
        assert_eq!(first.digest, again.digest);
        assert!(first.archive == again.archive);
    }
}

#[test]
fn the_digest_changes_only_with_the_release_and_its_programs() {
    let one = write(&release(), &programs()).expect("written").digest;
    let mut later = release();
    later.time += 1;
    assert_ne!(one, write(&later, &programs()).expect("written").digest);
    let mut others = programs();
    others[0].bytes.push(b'!');
    assert_ne!(one, write(&release(), &others).expect("written").digest);
}

#[test]
fn the_layout_is_valid_and_named_for_containerd() {
    let image = write(&release(), &programs()).expect("written");
    let files = unpack(&image.archive);
    OciLayout::from_reader(&*files["oci-layout"]).expect("the marker of a layout");
    let top = ImageIndex::from_reader(&*files["index.json"]).expect("the layout's index");
    let [index] = top.manifests().as_slice() else {
        panic!("one image: {top:?}");
    };
    assert_eq!(index.digest().to_string(), image.digest);
    let names = index.annotations().as_ref().expect("names");
    assert_eq!(names[CONTAINERD_NAME], "ghcr.io/peili/peili:v1.2.3");
    assert_eq!(names[ANNOTATION_REF_NAME], "v1.2.3");
    let index = ImageIndex::from_reader(blob(&files, index)).expect("an index");
    let platforms = index.manifests().iter();
    let platforms: Vec<_> = platforms
        .map(|manifest| manifest.platform().clone().expect("a platform"))
        .map(|platform| (platform.os().clone(), platform.architecture().clone()))
        .collect();
    assert_eq!(
        platforms,
        [(Os::Linux, Arch::Amd64), (Os::Linux, Arch::ARM64)]
    );
}

#[test]
fn each_platform_starts_its_own_program_and_has_nothing_else() {
    let image = write(&release(), &programs()).expect("written");
    let files = unpack(&image.archive);
    let top = ImageIndex::from_reader(&*files["index.json"]).expect("the layout's index");
    let index = ImageIndex::from_reader(blob(&files, &top.manifests()[0])).expect("an index");
    for (descriptor, program) in index.manifests().iter().zip(programs()) {
        let manifest = ImageManifest::from_reader(blob(&files, descriptor)).expect("a manifest");
        let config = blob(&files, manifest.config());
        let config = ImageConfiguration::from_reader(config).expect("a configuration");
        assert_eq!(config.architecture(), &program.architecture.oci);
        let start = config.config().as_ref().expect("what is started");
        assert_eq!(start.entrypoint().as_deref(), Some(&["/peili".into()][..]));
        assert_eq!(start.user().as_deref(), Some("0"));
        assert_eq!(start.labels().as_ref(), manifest.annotations().as_ref());
        let labels = start.labels().as_ref().expect("labels");
        assert_eq!(labels[ANNOTATION_REVISION], "abc");
        assert_eq!(labels[ANNOTATION_CREATED], "2023-11-14T22:13:20Z");

        let [layer] = manifest.layers().as_slice() else {
            panic!("one layer: {manifest:?}");
        };
        let mut root = Vec::new();
        let mut layer = GzDecoder::new(blob(&files, layer));
        layer.read_to_end(&mut root).expect("a gzip layer");
        let diff_id = format!("sha256:{}", sha256(&root));
        assert_eq!(config.rootfs().diff_ids(), &[diff_id]);
        let root = unpack(&root);
        assert_eq!(root, BTreeMap::from([("peili".into(), program.bytes)]));
    }
}
