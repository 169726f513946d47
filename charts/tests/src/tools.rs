//! Where the chart and the tools lie. `cargo xtask test --only chart` installs the tools and names them in the
//! environment.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace's root.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join("../..")
}

/// The chart's folder.
pub fn chart() -> PathBuf {
    workspace().join("charts/peili")
}

/// A file of `charts/tests/fixtures`.
///
/// # Errors
/// It cannot be read.
pub fn fixture(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The tool that an environment variable names.
pub(crate) fn tool(variable: &str) -> Result<Command> {
    let path = std::env::var_os(variable).with_context(|| {
        format!("{variable} is not set: run these tests with `cargo xtask test --only chart`")
    })?;
    Ok(Command::new(path))
}

/// Runs promtool on files that are written to a folder of their own.
///
/// # Errors
/// It finds fault, and what it says.
pub fn promtool(arguments: &[&str], files: &[(&str, String)]) -> Result<String> {
    run(tool("CHART_PROMTOOL")?.args(arguments), files)
}

/// Holds objects, as YAML documents, against the schemas of one version of Kubernetes. Objects of kinds that Kubernetes
/// does not have itself are passed over.
///
/// # Errors
/// An object is not as the schema has it, or has a field that the schema does not know.
pub fn validate(version: &str, documents: &str) -> Result<String> {
    let files = [("objects.yaml", documents.to_owned())];
    let arguments = ["--strict", "-k", version, "objects.yaml"];
    run(tool("CHART_KUBERNETES_VALIDATE")?.args(arguments), &files)
}

fn run(command: &mut Command, files: &[(&str, String)]) -> Result<String> {
    let folder = tempfile::tempdir()?;
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text)?;
    }
    let output = command.current_dir(folder.path()).output();
    let output = output.with_context(|| format!("{command:?} could not be started"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    if !output.status.success() {
        bail!("{command:?} ended with {}: {said}", output.status);
    }
    Ok(said)
}
