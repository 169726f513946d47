//! The cargo commands that only `dist` needs, built into the target folder.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// A command from crates.io, pinned, so that changes of its output come with a commit.
pub struct Tool {
    name: &'static str,
    version: &'static str,
}

/// Embeds the list of dependencies into programs.
pub const AUDITABLE: Tool = Tool {
    name: "cargo-auditable",
    version: "0.7.7",
};
/// Writes the SBOM.
pub const CYCLONEDX: Tool = Tool {
    name: "cargo-cyclonedx",
    version: "0.5.9",
};
/// Writes Debian packages.
pub const DEB: Tool = Tool {
    name: "cargo-deb",
    version: "3.8.0",
};

impl Tool {
    /// Builds the tool unless its pinned version is there, and returns its path.
    pub fn install(&self, workspace: &Workspace) -> Result<PathBuf> {
        let (name, version) = (self.name, self.version);
        let folder = workspace.tools();
        let program = folder.join("bin").join(name);
        // cargo's own list of what it installed below this folder.
        let installed = fs::read_to_string(folder.join(".crates.toml")).unwrap_or_default();
        if installed.contains(&format!("\"{name} {version} (")) && program.exists() {
            return Ok(program);
        }
        // Unoptimised: it builds in a third of the time and runs for seconds.
        let mut install = workspace.cargo(["install", name, "--locked", "--debug", "--force"]);
        process::run(install.args(["--version", version, "--root"]).arg(&folder))?;
        Ok(program)
    }
}
