//! Selects the image of an index for this machine.

use serde::Deserialize;

use crate::Digest;

/// This machine's architecture, in the notation of images (Go's GOARCH).
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// The manifest of an index for this machine under Linux (image-index.md, "platform").
pub fn image_for_this_machine(index: &[u8]) -> Option<Digest> {
    let index: Index = serde_json::from_slice(index).ok()?;
    let fits = |entry: &Entry| {
        let platform = entry.platform.as_ref();
        platform.is_some_and(|p| p.os == "linux" && p.architecture == architecture())
    };
    let entry = index.manifests.into_iter().find(fits)?;
    entry.digest.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_index_offers_this_machines_image() {
        let digest = |text: &str| Digest::sha256(text.as_bytes()).to_string();
        let entry = |text: &str, os: &str, architecture: &str| {
            let platform = json!({"os": os, "architecture": architecture});
            json!({"digest": digest(text), "platform": platform})
        };
        let index = json!({"manifests": [
            entry("attestation", "unknown", "unknown"),
            {"digest": digest("bare")},
            entry("windows", "windows", architecture()),
            entry("ours", "linux", architecture()),
        ]});
        let chosen = image_for_this_machine(index.to_string().as_bytes()).expect("one fits");
        assert_eq!(chosen.as_str(), digest("ours"));
        assert_eq!(image_for_this_machine(br#"{"manifests":[]}"#), None);
    }
}
