//! The static program: one file that runs in an empty root, contains no folder of the build machine, and has the same
//! bytes whatever the folders are called.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use super::architecture::Architecture;
use super::tools;
use crate::process;
use crate::workspace::Workspace;

/// Variables that would change the program's bytes and must not affect a release.
const IGNORED_VARIABLES: [&str; 5] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CFLAGS",
    "CARGO_INCREMENTAL",
];

const WRAPPER: &str = r#"#!/bin/sh
case $1 in */cargo-auditable) ours=yes ;; *) ours= ;; esac
for argument do
    shift
    case $ours$argument in yesmetadata=*) argument=metadata=$CARGO_PKG_NAME ;; esac
    set -- "$@" "$argument"
done
exec "$@""#;

const OUTPUT_OF_BUILD_SCRIPT: &str =
    " ${OUT_DIR:+\"--remap-path-prefix=$OUT_DIR=/target/out/$CARGO_PKG_NAME\"}\n";

/// Builds the program for one architecture with a cargo profile, and returns its path.
///
/// The build has a separate target folder, because its flags differ from those of all other builds.
pub fn build(workspace: &Workspace, architecture: &Architecture, profile: &str) -> Result<PathBuf> {
    let auditable = tools::AUDITABLE.install(workspace)?;
    let target = workspace.dist().join("build");
    let paths = Paths {
        root: workspace.root().to_owned(),
        cargo_home: cargo_home()?,
        target: target.clone(),
    };
    let mut build = Command::new(auditable);
    build.current_dir(workspace.root());
    build.args(["auditable", "build", "--locked", "--package", "peili"]);
    build.args(["--profile", profile, "--target", architecture.rust_target]);
    build.arg("--target-dir").arg(&target);
    for variable in IGNORED_VARIABLES {
        build.env_remove(variable);
    }
    build.env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    build.env("RUSTC_WRAPPER", paths.write_rustc_wrapper()?);
    // Read by the crate cc for this target only; ring has C code and assembly.
    let target_variable = architecture.rust_target.replace('-', "_");
    build.env(format!("CFLAGS_{target_variable}"), paths.c_flags());
    build.env(format!("CC_{target_variable}"), architecture.compiler());
    let linker = format!(
        "CARGO_TARGET_{}_LINKER",
        target_variable.to_ascii_uppercase()
    );
    build.env(linker, architecture.compiler());
    process::run(&mut build)?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(target
        .join(architecture.rust_target)
        .join(folder)
        .join("peili"))
}

/// Folders of this machine, which must not be visible in the program.
struct Paths {
    root: PathBuf,
    cargo_home: PathBuf,
    target: PathBuf,
}

impl Paths {
    /// Each folder and its replacement. The last match of a path counts, so nested folders come after their parents.
    fn names(&self) -> [(&Path, &'static str); 3] {
        [
            (&self.root, "/peili"),
            (&self.cargo_home, "/cargo"),
            (&self.target, "/target"),
        ]
    }

    /// Writes the script that cargo calls instead of `rustc`, and returns its path.
    ///
    /// Two things would put the folders into the program despite cargo's flags. `RUSTFLAGS` apply only to the crates of
    /// the target, while the hashes of procedural macros, built for the host, affect those of the crates that use them
    /// and the order of functions. And cargo hashes the path of its workspace wrapper, here cargo-auditable, into the
    /// metadata of the workspace's crates and into the names of their build scripts' folders.
    fn write_rustc_wrapper(&self) -> Result<PathBuf> {
        fs::create_dir_all(&self.target)
            .with_context(|| format!("the folder {}", self.target.display()))?;
        let path = self.target.join("rustc-without-folders");
        fs::write(&path, self.rustc_wrapper())
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("the script {}", path.display()))?;
        Ok(path)
    }

    /// Cargo calls it as `SCRIPT [WORKSPACE WRAPPER] rustc ARGUMENT…`.
    fn rustc_wrapper(&self) -> String {
        let mut script = String::from(WRAPPER);
        for (folder, name) in self.names() {
            let folder = folder.display().to_string().replace('\'', r"'\''");
            script.push_str(&format!(" '--remap-path-prefix={folder}={name}'"));
        }
        script.push_str(OUTPUT_OF_BUILD_SCRIPT);
        script
    }

    fn c_flags(&self) -> OsString {
        let mut flags = OsString::new();
        for (folder, name) in self.names() {
            flags.push(" -ffile-prefix-map=");
            flags.push(folder);
            flags.push("=");
            flags.push(name);
        }
        flags
    }
}

/// The folder with cargo's sources of dependencies.
fn cargo_home() -> Result<PathBuf> {
    let given = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let usual = || std::env::home_dir().map(|home| home.join(".cargo"));
    let folder = given
        .or_else(usual)
        .ok_or_else(|| anyhow!("neither CARGO_HOME nor HOME is set"))?;
    // rustc compares texts, so links must be resolved.
    folder
        .canonicalize()
        .with_context(|| format!("cargo's folder {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_within_others_are_mapped_behind_them() {
        let paths = Paths {
            root: "/home/me/peili".into(),
            cargo_home: "/home/me/.cargo".into(),
            target: "/home/me/peili/target/dist/build".into(),
        };
        assert!(paths.rustc_wrapper().ends_with(
            "\nexec \"$@\" '--remap-path-prefix=/home/me/peili=/peili' \
             '--remap-path-prefix=/home/me/.cargo=/cargo' \
             '--remap-path-prefix=/home/me/peili/target/dist/build=/target' \
             ${OUT_DIR:+\"--remap-path-prefix=$OUT_DIR=/target/out/$CARGO_PKG_NAME\"}\n"
        ));
    }
}
