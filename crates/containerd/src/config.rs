//! The configuration of the store.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use oci::Registry;

use crate::Retain;

/// Where a node's containerd is, and which of its content is shared.
#[derive(Clone, Debug)]
pub struct Config {
    /// The gRPC socket, usually `/run/containerd/containerd.sock`.
    pub socket: PathBuf,
    /// The namespaces whose images and content are shared. If two have a tag, the first one's counts.
    pub namespaces: Vec<Namespace>,
    /// The content store's folder as this process sees it. `None`: the folder that containerd reports.
    pub content_path: Option<PathBuf>,
    /// Registries whose port matters. containerd's source labels name the host without its port: content of
    /// `10.0.0.1:5000` is labelled `10.0.0.1` and would not match requests and filters until its image is complete and
    /// has a name. Content labelled with the host of one of these counts as that registry's too.
    pub registries: Vec<Registry>,
    /// Which layers that containerd discards are kept. `None`: none.
    pub retain: Option<Retain>,
}

/// A containerd namespace: `k8s.io` for the kubelet, `moby` for Docker, `default` for `ctr`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "containerd namespace {0:?} is not of the form [A-Za-z0-9]+([._-][A-Za-z0-9]+)*, at most {MAX_NAMESPACE} long"
)]
pub struct NamespaceError(String);

/// The most bytes of a namespace (containerd, `pkg/identifiers`).
const MAX_NAMESPACE: usize = 76;

impl Namespace {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = NamespaceError;

    /// Parses a namespace (containerd, `pkg/identifiers`). A valid one can be used unchanged in a header and in an
    /// event filter.
    fn from_str(text: &str) -> Result<Self, NamespaceError> {
        let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric());
        if text.len() > MAX_NAMESPACE || !text.split(['.', '_', '-']).all(part) {
            return Err(NamespaceError(text.chars().take(MAX_NAMESPACE).collect()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_cannot_leave_a_filter() {
        for good in ["k8s.io", "moby", "a-b_c.D9"] {
            assert_eq!(good.parse::<Namespace>().expect(good).as_str(), good);
        }
        let long = "a".repeat(MAX_NAMESPACE + 1);
        for bad in ["", "k8s..io", ".a", "a\"", "a,b", "a b", "ä", "a\n", &long] {
            assert!(bad.parse::<Namespace>().is_err(), "{bad:?} was taken");
        }
    }
}
