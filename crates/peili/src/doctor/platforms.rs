//! The paths of containerd in Kubernetes distributions. The chart's `platform` has the same ones.

use std::path::Path;

use ::doctor::ContainerdPaths;

/// The socket, the configuration file and the registry configuration.
const PLACES: [[&str; 3]; 5] = [
    [
        "/run/containerd/containerd.sock",
        "/etc/containerd/config.toml",
        "/etc/containerd/certs.d",
    ],
    [
        "/run/k3s/containerd/containerd.sock",
        "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        "/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
    ],
    [
        "/run/k3s/containerd/containerd.sock",
        "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        "/var/lib/rancher/rke2/agent/etc/containerd/certs.d",
    ],
    [
        "/run/k0s/containerd.sock",
        "/etc/k0s/containerd.toml",
        "/etc/containerd/certs.d",
    ],
    [
        "/run/containerd/containerd.sock",
        "/etc/cri/containerd.toml",
        "/etc/cri/conf.d/hosts",
    ],
];

/// The places with a socket and its configuration file, except for this socket.
pub fn listening(besides: &str) -> Vec<ContainerdPaths> {
    let is_there = |[socket, config, _]: &&[&str; 3]| {
        *socket != besides && Path::new(socket).exists() && Path::new(config).exists()
    };
    let there = PLACES.iter().filter(is_there);
    let paths = there.map(|[socket, config, registry_config]| ContainerdPaths {
        socket: (*socket).to_owned(),
        content: String::new(),
        config: (*config).to_owned(),
        registry_config: (*registry_config).to_owned(),
    });
    paths.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_chart() {
        let platforms = include_str!("../../../../charts/peili/files/platforms.yaml");
        let defaults = include_str!("../../../../charts/peili/files/defaults.yaml");
        for path in PLACES.iter().flatten() {
            let is_known = platforms.contains(path) || defaults.contains(path);
            assert!(is_known, "{path} is not in the chart");
        }
    }
}
