//! The address of the API server, and the identity of this pod.

use std::path::{Path, PathBuf};

/// Where the kubelet mounts the pod's service account.
const FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The access to the API server: its address, and the folder with the token and the CA certificate.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    pub(crate) url: String,
    pub(crate) folder: PathBuf,
}

/// Why the API server cannot be accessed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0} is not set; node readiness needs the API server, so run it in a pod, or leave --node-readiness off"
)]
pub struct ServiceAccountError(&'static str);

impl ServiceAccount {
    /// Finds the API server as every process in a pod does: by `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
    /// The first request shows whether the folder is mounted.
    ///
    /// # Errors
    /// One of the variables is not set.
    pub fn in_cluster() -> Result<Self, ServiceAccountError> {
        let variable = |name| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            value.ok_or(ServiceAccountError(name))
        };
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        Ok(Self::new(&host, &port, Path::new(FOLDER)))
    }

    /// A service account with its token and CA certificate in `folder`, as `token` and `ca.crt`.
    pub fn new(host: &str, port: &str, folder: &Path) -> Self {
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        Self {
            url: format!("https://{host}:{port}"),
            folder: folder.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        let url = |host| ServiceAccount::new(host, "443", Path::new("/x")).url;
        assert_eq!(url("10.96.0.1"), "https://10.96.0.1:443");
        assert_eq!(url("fd00::1"), "https://[fd00::1]:443");
    }
}
