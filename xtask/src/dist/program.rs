//! The static program: one file that runs in an empty root and names no folder of the machine that built it.
//!
//! Its bytes still depend on the folder. Procedural macros are built for the host, without the flags that rename
//! folders; their hashes differ with the folder and decide in which order functions are laid out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use super::architecture::Architecture;
use super::tools;
use crate::process;
use crate::workspace::Workspace;

/// What separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

/// Variables that would change the program's bytes and are not for a release to take over.
const IGNORED_VARIABLES: [&str; 5] = [
    "RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "RUSTC_WRAPPER",
    "CFLAGS",
    "CARGO_INCREMENTAL",
];

/// Builds the program for one architecture by a profile of cargo's, and returns its path.
///
/// The build has a target folder of its own, because its flags differ from those of all other builds.
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
    build.env("CARGO_ENCODED_RUSTFLAGS", paths.rust_flags());
    // Read by the crate cc for this target alone; ring has C code and assembly.
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

/// Folders of this machine, which must not be seen in the program.
struct Paths {
    root: PathBuf,
    cargo_home: PathBuf,
    target: PathBuf,
}

impl Paths {
    /// Each folder and the name that stands for it. The last that matches a path counts, so that folders within others
    /// come behind them.
    fn names(&self) -> [(&Path, &'static str); 3] {
        [
            (&self.root, "/peili"),
            (&self.cargo_home, "/cargo"),
            (&self.target, "/target"),
        ]
    }

    fn rust_flags(&self) -> OsString {
        let mut flags = OsString::from("-Ctarget-feature=+crt-static");
        for (folder, name) in self.names() {
            flags.push(SEPARATOR);
            flags.push("--remap-path-prefix=");
            flags.push(folder);
            flags.push("=");
            flags.push(name);
        }
        flags
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

/// Where cargo keeps the sources of dependencies.
fn cargo_home() -> Result<PathBuf> {
    let given = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let usual = || std::env::home_dir().map(|home| home.join(".cargo"));
    let folder = given
        .or_else(usual)
        .ok_or_else(|| anyhow!("neither CARGO_HOME nor HOME is set"))?;
    // rustc compares texts: a link must not hide the folder from it.
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
        let flags = paths.rust_flags().into_string().expect("text");
        let flags: Vec<_> = flags.split(SEPARATOR).collect();
        assert_eq!(
            flags,
            [
                "-Ctarget-feature=+crt-static",
                "--remap-path-prefix=/home/me/peili=/peili",
                "--remap-path-prefix=/home/me/.cargo=/cargo",
                "--remap-path-prefix=/home/me/peili/target/dist/build=/target",
            ]
        );
    }
}
