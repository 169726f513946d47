//! The containerds of the end-to-end tests: one of each generation in use, from Debian, unpacked beside each other and
//! never installed; and those that the developer has built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::apt::Archive;
use crate::process;

/// A line of containerd releases that behave alike.
pub struct Generation {
    /// The name in the folder and in the tests.
    name: &'static str,
    /// The prefix of this generation's versions.
    prefix: &'static str,
    /// Debian's suites that may have it, first choice first.
    suites: &'static [&'static str],
}

pub const GENERATIONS: &[Generation] = &[
    Generation {
        name: "1.6",
        prefix: "1.6.",
        suites: &["bookworm"],
    },
    Generation {
        name: "1.7",
        prefix: "1.7.",
        suites: &["trixie"],
    },
    Generation {
        name: "2.x",
        prefix: "2.",
        suites: &["forky", "sid"],
    },
];

impl Generation {
    fn includes(&self, version: &str) -> bool {
        version.starts_with(self.prefix)
    }
}

/// Unpacks the generation to `<e2e>/containerd-<name>` unless it is there. Nothing is downloaded twice.
pub fn install(generation: &Generation, e2e: &Path) -> Result<()> {
    let folder = e2e.join(format!("containerd-{}", generation.name));
    if folder.exists() {
        return check_version(generation, &folder);
    }
    println!(
        "containerd {}: from Debian, into {}",
        generation.name,
        folder.display()
    );
    let mut failures = Vec::new();
    for suite in generation.suites {
        match install_from(generation, suite, e2e, &folder) {
            Ok(()) => return Ok(()),
            Err(error) => failures.push(format!("{suite}: {error:#}")),
        }
    }
    bail!(
        "containerd {} cannot be had: {}",
        generation.name,
        failures.join("; ")
    );
}

fn install_from(generation: &Generation, suite: &str, e2e: &Path, folder: &Path) -> Result<()> {
    let archive = Archive::open(suite, &e2e.join("apt").join(suite))?;
    let version = archive
        .versions("containerd")?
        .into_iter()
        .find(|version| generation.includes(version))
        .ok_or_else(|| anyhow!("has no containerd {}", generation.name))?;
    let package = archive.download("containerd", &version)?;

    // Unpacked to another folder and then renamed, so that the folder is never incomplete.
    let unpacked = e2e.join(format!("containerd-{}.unpacking", generation.name));
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)?;
    }
    process::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&package)
            .arg(&unpacked),
    )?;
    check_version(generation, &unpacked)?;
    fs::rename(&unpacked, folder)
        .with_context(|| format!("{} could not be moved into place", unpacked.display()))?;
    archive.remove()
}

/// The absolute path of a folder with programs of containerd that the developer names.
pub fn given(folder: &Path) -> Result<PathBuf> {
    let folder = folder
        .canonicalize()
        .with_context(|| format!("--containerd {}", folder.display()))?;
    let version = version(&folder.join("containerd"))?;
    if !folder.join("ctr").exists() {
        bail!(
            "--containerd {}: has no ctr; put containerd and ctr of one version there",
            folder.display()
        );
    }
    println!("containerd {version}: {}", folder.display());
    Ok(folder)
}

/// The version of the program: `containerd <module> <version> <revision>`. Some builds put a `v` before the version.
fn version(containerd: &Path) -> Result<String> {
    let output = process::output(Command::new(containerd).arg("--version"))?;
    let version = output.split_whitespace().nth(2).unwrap_or_default();
    Ok(version.trim_start_matches('v').to_owned())
}

/// Asserts that the folder contains this generation, whatever it was downloaded as.
fn check_version(generation: &Generation, folder: &Path) -> Result<()> {
    let version = version(&folder.join("usr/bin/containerd"))?;
    if !generation.includes(&version) {
        bail!(
            "{} holds containerd {version}, not {}: remove it to have it downloaded again",
            folder.display(),
            generation.name,
        );
    }
    println!("containerd {}: {version}", generation.name);
    Ok(())
}
