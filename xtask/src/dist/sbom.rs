//! The SBOM: a CycloneDX document from cargo-cyclonedx, without the parts that differ from run to run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::architecture::Architecture;
use super::release::{Release, TIME_VARIABLE};
use super::tools;
use crate::process;
use crate::workspace::Workspace;

/// The CycloneDX version of the document.
const SPECIFICATION: &str = "1.5";
/// Replaces the workspace's root in the document, as in the program.
const ROOT_NAME: &str = "/peili";
/// The name of the files of cargo-cyclonedx, one beside each member's Cargo.toml.
const FILE: &str = "sbom-of-dist";

/// Returns the document for the program of one architecture.
pub fn write(
    workspace: &Workspace,
    release: &Release,
    architecture: &Architecture,
) -> Result<Vec<u8>> {
    let tool = tools::CYCLONEDX.install(workspace)?;
    let mut generate = Command::new(tool);
    generate
        .current_dir(workspace.root())
        .env(TIME_VARIABLE, release.time.to_string())
        .args(["cyclonedx", "--format", "json", "--no-build-deps"])
        .args(["--manifest-path", "crates/peili/Cargo.toml"])
        .args(["--spec-version", SPECIFICATION, "--all"])
        .args(["--target", architecture.rust_target])
        .args(["--override-filename", FILE, "-q"]);
    let generated = process::run(&mut generate);
    let document = take_files(workspace);
    generated?;
    normalise(&document?, workspace.root())
}

/// Reads the document of package `peili`, and removes it and those of the other members.
fn take_files(workspace: &Workspace) -> Result<Vec<u8>> {
    let mut document = Err(anyhow!("cargo-cyclonedx wrote no document for peili"));
    for folder in members(workspace)? {
        let file = folder.join(format!("{FILE}.json"));
        if folder.ends_with("crates/peili") {
            document = fs::read(&file).with_context(|| format!("cannot read {}", file.display()));
        }
        if file.exists() {
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    document
}

fn members(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut metadata = workspace.cargo(["metadata", "--format-version=1", "--no-deps"]);
    let metadata: Value = serde_json::from_str(&process::output(&mut metadata)?)
        .context("cargo metadata did not answer with JSON")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifests = packages.filter_map(|package| package["manifest_path"].as_str());
    Ok(manifests
        .filter_map(|path| Path::new(path).parent())
        .map(Path::to_owned)
        .collect())
}

/// Removes the machine's paths, and sets a serial number derived from the content.
fn normalise(document: &[u8], root: &Path) -> Result<Vec<u8>> {
    let text = std::str::from_utf8(document).context("cargo-cyclonedx wrote no UTF-8")?;
    let text = text.replace(&format!("path+file://{}", root.display()), ROOT_NAME);
    let mut document: Value =
        serde_json::from_str(&text).context("cargo-cyclonedx wrote no JSON")?;
    let content = document
        .as_object_mut()
        .ok_or_else(|| anyhow!("cargo-cyclonedx wrote no JSON object"))?;
    content.remove("serialNumber");
    document.sort_all_objects();
    let serial = serial_number(&serde_json::to_vec(&document)?);
    document["serialNumber"] = Value::from(serial);
    document.sort_all_objects();
    let mut bytes = serde_json::to_vec_pretty(&document)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A UUID of version 8 (RFC 9562, section 5.8) made from the content's digest.
fn serial_number(content: &[u8]) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(content)[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    format!("urn:uuid:{}", parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(serial: &str, root: &str) -> String {
        let text = format!(
            r#"{{"version":1,"serialNumber":"{serial}","components":[{{"bom-ref":"path+file://{root}/crates/oci#0.1.0"}}]}}"#
        );
        let bytes = normalise(text.as_bytes(), Path::new(root)).expect("normalised");
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn neither_the_run_nor_the_folder_shows() {
        let one = normalised("urn:uuid:1", "/home/me/peili");
        assert_eq!(one, normalised("urn:uuid:2", "/tmp/b"));
        assert!(
            one.contains(r#""bom-ref": "/peili/crates/oci#0.1.0""#),
            "{one}"
        );
        assert!(!one.contains("/home/me"), "{one}");
    }

    #[test]
    fn the_serial_number_is_a_uuid_of_the_content() {
        let serial = serial_number(b"content");
        assert_ne!(serial, serial_number(b"other content"));
        let (prefix, uuid) = serial.split_at(9);
        assert_eq!(prefix, "urn:uuid:");
        let lengths: Vec<_> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(&uuid[14..15], "8", "the version");
    }
}
