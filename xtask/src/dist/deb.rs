//! The Debian package, written by cargo-deb from `[package.metadata.deb]` in crates/peili/Cargo.toml.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::architecture::Architecture;
use super::image::Program;
use super::manuals::Manuals;
use super::release::{Release, TIME_VARIABLE};
use super::tools;
use crate::process;
use crate::workspace::Workspace;

/// The first package of a version.
const REVISION: &str = "1";

/// The file's name, as Debian's tools expect it.
pub fn file_name(release: &Release, architecture: &Architecture) -> String {
    let version = &release.version;
    format!("peili_{version}-{REVISION}_{}.deb", architecture.name)
}

/// Packs an existing program into the package `file`.
pub fn write(
    workspace: &Workspace,
    release: &Release,
    program: &Program,
    manuals: &Manuals,
    file: &Path,
) -> Result<()> {
    let architecture = program.architecture;
    let cargo_deb = tools::DEB.install(workspace)?;
    // cargo-deb looks for the program in cargo's target folder.
    let target = workspace.dist().join("deb");
    let folder = target.join(architecture.rust_target).join("release");
    fs::create_dir_all(&folder)?;
    let staged = folder.join("peili");
    fs::write(&staged, &program.bytes)
        .with_context(|| format!("cannot write {}", staged.display()))?;
    fs::set_permissions(&staged, fs::Permissions::from_mode(0o755))?;
    manuals.unpack(&folder)?;

    let mut pack = Command::new(cargo_deb);
    pack.current_dir(workspace.root())
        .env("CARGO_TARGET_DIR", &target)
        .env(TIME_VARIABLE, release.time.to_string())
        .args(["--no-build", "--no-strip", "--package", "peili"])
        .args(["--target", architecture.rust_target])
        .args(["--deb-revision", REVISION, "--output"])
        .arg(file);
    process::run(&mut pack)
}
