//! The tarball for hosts without Debian's package manager: the program and its units.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::architecture::Architecture;
use super::archive::Archive;
use super::image::Program;
use super::manuals::Manuals;
use super::release::Release;

/// The files of the workspace in the tarball, besides the program.
const FILES: [&str; 5] = [
    "packaging/peili.service",
    "packaging/peili-configuration.service",
    "packaging/peili.default",
    "LICENSE",
    "README.md",
];

/// The file's name without `.tar.gz`, which is also the folder in the tarball.
pub fn folder_name(release: &Release, architecture: &Architecture) -> String {
    format!("peili-{}-linux-{}", release.version, architecture.name)
}

/// Returns the bytes of the tarball.
pub fn write(
    root: &Path,
    release: &Release,
    program: &Program,
    manuals: &Manuals,
) -> Result<Vec<u8>> {
    let folder = folder_name(release, program.architecture);
    let mut archive = Archive::new(release.time);
    archive.add(format!("{folder}/peili"), 0o755, &*program.bytes);
    for path in FILES {
        let content = fs::read(root.join(path)).with_context(|| format!("cannot read {path}"))?;
        let name = path.rsplit('/').next().unwrap_or(path);
        archive.add(format!("{folder}/{name}"), 0o644, content);
    }
    for (name, content) in &manuals.files {
        archive.add(format!("{folder}/{name}"), 0o644, &**content);
    }
    archive.tar_gz()
}
