//! What the store has to be told.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use oci::Registry;

use crate::Retain;

/// Where a node's containerd is and what of it counts.
#[derive(Clone, Debug)]
pub struct Config {
    /// The gRPC socket, usually `/run/containerd/containerd.sock`.
    pub socket: PathBuf,
    /// The namespaces whose images and content are shared; for a tag that two of them have, the first one's counts.
    pub namespaces: Vec<Namespace>,
    /// The content store's folder as this process sees it; `None`: where containerd says it is.
    pub content_path: Option<PathBuf>,
    /// Registries whose port matters. containerd's source labels name the host without its port, so that content of
    /// `10.0.0.1:5000` is labelled `10.0.0.1` and could not be matched with requests and filters until its image is
    /// complete and has a name. Content labelled with the host of one of these counts as that registry's too.
    pub registries: Vec<Registry>,
    /// What is kept of layers that containerd discards; `None`: nothing.
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

/// containerd, `pkg/identifiers`.
const MAX_NAMESPACE: usize = 76;

impl Namespace {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = NamespaceError;

    /// containerd, `pkg/identifiers`. What passes can stand in a header and in an event filter as it is.
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
