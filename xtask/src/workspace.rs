//! The folders: the workspace, its one target folder, and the tools and packages kept there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::process;

/// The folders that the commands work in.
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Asks cargo, so that `CARGO_TARGET_DIR` and the like are respected.
    pub fn open() -> Result<Workspace> {
        let mut metadata = Command::new(cargo_path());
        metadata.args(["metadata", "--format-version=1", "--no-deps", "--offline"]);
        // Not the folder in which the command was started: `cargo xtask` works from anywhere inside.
        metadata.current_dir(env!("CARGO_MANIFEST_DIR"));
        let metadata: serde_json::Value = serde_json::from_str(&process::output(&mut metadata)?)
            .context("cargo metadata did not answer with JSON")?;
        let folder = |key: &str| {
            metadata[key]
                .as_str()
                .map(PathBuf::from)
                .ok_or_else(|| anyhow!("cargo metadata names no {key}"))
        };
        Ok(Workspace {
            root: folder("workspace_root")?,
            target: folder("target_directory")?,
        })
    }

    /// A cargo command in the workspace's root.
    pub fn cargo<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = Command::new(cargo_path());
        command.args(args).current_dir(&self.root);
        command
    }

    /// Builds Peili as it is released, and returns the path.
    pub fn release_binary(&self) -> Result<PathBuf> {
        let build = ["build", "--release", "--locked", "--package=peili"];
        process::run(&mut self.cargo(build))?;
        Ok(self.target.join("release/peili"))
    }

    /// The folder of tools that the commands built for themselves.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The folder of what the end-to-end tests need and leave: containerds, logs.
    pub fn e2e(&self) -> PathBuf {
        self.target.join("e2e")
    }

    /// The folder of the documentation's pages and site.
    pub fn docs(&self) -> PathBuf {
        self.target.join("docs")
    }

    /// The folder in which a release is made, with its artifacts.
    pub fn dist(&self) -> PathBuf {
        self.target.join("dist")
    }

    /// The workspace's root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// The cargo that runs this program, so that both are of one toolchain.
fn cargo_path() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}
