//! Fuzz targets: one function for each parser of input from clients, peers, registries and users' files. None may
//! panic, whatever the bytes, and what it accepts must be consistent.
//!
//! `cargo xtask fuzz` runs them for a while with libFuzzer; the tests replay the seeds of `seeds/` and variations of
//! them.
#![expect(
    clippy::unwrap_used,
    reason = "a panic is what a target reports a fault with"
)]

mod node;

use http::{HeaderMap, HeaderValue, Method, Uri, header};
use mirror::Reader;
use oci::{Digest, Manifest, MediaType, Name, Ranges, Reference, Registry, Repository};

pub use node::flights;

pub type Target = fn(&[u8]);

/// Every target, by its name.
pub const TARGETS: [(&str, Target); 9] = [
    ("challenge", challenge),
    ("docker_config", docker_config),
    ("flights", flights),
    ("frames", frames),
    ("hosts_toml", hosts_toml),
    ("id", id),
    ("manifest", manifest),
    ("name", name),
    ("request", request),
];

/// The head of a request: its method and URI in the first line, then headers, one on each line.
pub fn request(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let (method, uri) = first.split_once(' ').unwrap_or(("GET", &first));
    let (Ok(method), Ok(uri)) = (method.parse::<Method>(), uri.parse::<Uri>()) else {
        return;
    };
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        if let (Ok(name), Ok(value)) = (
            header::HeaderName::from_bytes(name),
            HeaderValue::from_bytes(value[1..].trim_ascii()),
        ) {
            headers.append(name, value);
        }
    }
    // Any fault is an error, which has a text.
    if let Err(error) = Reader::default().read(&method, &uri, &headers) {
        assert!(!error.to_string().is_empty());
    }
}

/// A manifest or an index.
pub fn manifest(bytes: &[u8]) {
    let media_type = MediaType::of_manifest(bytes, None);
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert_eq!(manifest.media_type, media_type);
    }
}

/// Names, digests and ranges. What is accepted comes back unchanged.
pub fn name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let same = |taken: Option<String>| assert!(taken.is_none_or(|taken| taken == text));
    same(text.parse::<Digest>().ok().map(|x| x.to_string()));
    same(text.parse::<Registry>().ok().map(|x| x.to_string()));
    same(Registry::with_underscored_port(text).map(|x| {
        let (host, port) = x.as_str().rsplit_once(':').unwrap();
        format!("{host}_{port}")
    }));
    same(text.parse::<Repository>().ok().map(|x| x.to_string()));
    same(text.parse::<Reference>().ok().map(|x| x.to_string()));
    let _ = text.parse::<Name>();
    if let Ok(Some(ranges)) = Ranges::parse(text)
        && let Ok(resolved) = ranges.resolve(1000)
    {
        assert!(resolved.iter().all(|r| r.start < r.end && r.end <= 1000));
    }
}

/// containerd's hosts.toml, as users write it.
pub fn hosts_toml(bytes: &[u8]) {
    hosts::fuzzing::hosts_toml(bytes);
}

/// A docker config.json.
pub fn docker_config(bytes: &[u8]) {
    upstream::fuzzing::docker_config(bytes);
}

/// `WWW-Authenticate`, `Link` and `Content-Range` of a registry, one header on each line.
pub fn challenge(bytes: &[u8]) {
    let lines = bytes.split(|byte| *byte == b'\n').take(16);
    let values: Vec<_> = lines
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .collect();
    upstream::fuzzing::headers(&values);
}

/// A peer's answer to `/id`.
pub fn id(bytes: &[u8]) {
    swarm::fuzzing::id(bytes);
}

/// A stream of datagrams of another node.
pub fn frames(bytes: &[u8]) {
    swarm::fuzzing::frames(bytes);
}
