//! Parsers of this crate for the crate `fuzz`.

use crate::merge::prepend;
use crate::{Configuration, Target};

/// Puts a mirror's host before those of a user's file. The result is TOML again.
#[expect(
    clippy::unwrap_used,
    reason = "a panic is what a target reports a fault with"
)]
pub fn hosts_toml(bytes: &[u8]) {
    let target: Target = "http://127.0.0.1:5000".parse().unwrap();
    let configuration = Configuration {
        path: "/etc/containerd/certs.d".parse().unwrap(),
        registries: Vec::new(),
        targets: vec![target.clone()],
        resolve_tags: true,
        prepend_existing: true,
        credentials: None,
        node_secret: None,
    };
    let upstream = "http://registry.example".parse().unwrap();
    if let Ok(text) = prepend(&configuration, &[&target], Some(&upstream), bytes) {
        text.parse::<toml_edit::DocumentMut>().unwrap();
    }
    let registry = "registry.example".parse().unwrap();
    let _ = crate::next_host::of_file(bytes, "/nowhere".as_ref(), &registry, |_| false);
}
