//! The host at which upstream is asked: the one that this node's containerd would ask after the mirror.

use std::net::{IpAddr, UdpSocket};

use hosts::{ConfigPath, NextHost};
use oci::{Registry, RegistryUrl, Scheme};
use upstream::{HostTls, RegistryHost, RegistryHosts};

/// containerd's hosts.toml files, read when a registry is asked.
pub struct NextHosts {
    config_path: ConfigPath,
    port: u16,
}

impl RegistryHosts for NextHosts {
    fn of(&self, registry: &Registry) -> Result<Option<RegistryHost>, String> {
        // A host on loopback for another registry is a mirror on the node, at a port that this process may not know (a
        // host port or node port of its own pod, on a node whose operating system writes hosts.toml).
        let stands_in = |url: &RegistryUrl| leads_here(url).is_some() && url.registry != *registry;
        let is_mirror = |url: &RegistryUrl| self.is_this_mirror(url) || stands_in(url);
        let host = hosts::next_host(&self.config_path, registry, is_mirror);
        let host = host.map_err(|error| match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        })?;
        Ok(host.map(registry_host))
    }
}

impl NextHosts {
    /// The hosts in the present files below `config_path`. `port`: that of this node's mirror. Logs if there are no
    /// such files, as in a container without a mount.
    pub fn new(config_path: ConfigPath, port: u16) -> Self {
        if !config_path.folders().iter().any(|folder| folder.is_dir()) {
            let folders = config_path.folders().iter();
            let folders: Vec<_> = folders.map(|f| f.display().to_string()).collect();
            tracing::info!(
                folders = folders.join(":"),
                "containerd's registry configuration is not in sight: tags and visibility are checked at the registries \
                 themselves, without its hosts and certificates, and a registry that needs them counts as out of reach; \
                 mount it, or name it with --containerd-registry-config-path"
            );
        }
        Self { config_path, port }
    }

    /// Whether a host written into hosts.toml by hand is this mirror.
    fn is_this_mirror(&self, url: &RegistryUrl) -> bool {
        url.scheme == Scheme::Http && leads_here(url) == Some(self.port)
    }
}

/// The port of a URL with an address of this host. `None`: it leads elsewhere, or has no port.
pub fn leads_here(url: &RegistryUrl) -> Option<u16> {
    let (host, port) = url.registry.as_str().rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = match host.parse::<IpAddr>() {
        // Only an address of this host can be bound.
        Ok(address) => address.is_loopback() || UdpSocket::bind((address, 0)).is_ok(),
        Err(_) => names::is_localhost(host),
    };
    is_here.then_some(port)
}

fn registry_host(host: NextHost) -> RegistryHost {
    RegistryHost {
        url: host.url,
        path: host.path,
        tls: HostTls {
            authorities: host.authorities,
            identity: host.identity,
            skip_verify: host.skip_verify,
        },
        headers: host.headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_mirror_is_known_by_its_address() {
        let hosts = NextHosts::new("/nowhere".parse().expect("a path"), 5000);
        for (url, is_mirror) in [
            ("http://127.0.0.1:5000", true),
            ("http://localhost:5000", true),
            ("http://[::1]:5000", true),
            ("http://127.0.0.1:5001", false),
            ("https://127.0.0.1:5000", false),
            ("http://192.0.2.1:5000", false),
            ("http://registry.example:5000", false),
            ("http://127.0.0.1", false),
        ] {
            let parsed = url.parse().expect("a URL");
            assert_eq!(hosts.is_this_mirror(&parsed), is_mirror, "{url}");
        }
    }
}
