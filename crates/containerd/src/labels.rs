//! The origins of content, from containerd's labels.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv6Addr;

use oci::{Origin, Registry};

/// `containerd.io/distribution.source.<host> = <repository>[,<repository>]` (containerd, `pkg/labels`). The host has no
/// port, and an IPv6 address has no brackets (`core/remotes/docker/handler.go`).
const SOURCE: &str = "containerd.io/distribution.source.";

/// The origins in an object's labels. `ported`: the registries with a port that a label's host may mean. Invalid hosts
/// and repositories are left out: any client of containerd's socket can write labels.
pub(crate) fn origins(labels: &HashMap<String, String>, ported: &[Registry]) -> BTreeSet<Origin> {
    let sources = labels
        .iter()
        .filter_map(|(key, value)| Some((registry(key.strip_prefix(SOURCE)?)?, value)));
    let mut origins = BTreeSet::new();
    for (host, repositories) in sources {
        let with_port = ported.iter().filter(|p| is_port_of(p, &host));
        let registries: Vec<&Registry> = std::iter::once(&host).chain(with_port).collect();
        for repository in repositories.split(',').filter_map(|r| r.parse().ok()) {
            let repository: oci::Repository = repository;
            origins.extend(registries.iter().map(|registry| Origin {
                registry: (*registry).clone(),
                repository: repository.clone(),
            }));
        }
    }
    origins
}

fn registry(host: &str) -> Option<Registry> {
    if host.parse::<Ipv6Addr>().is_ok() {
        return format!("[{host}]").parse().ok();
    }
    host.parse().ok()
}

/// Whether `registry` is `host` and a port.
fn is_port_of(registry: &Registry, host: &Registry) -> bool {
    registry
        .as_str()
        .strip_prefix(host.as_str())
        .is_some_and(|rest| rest.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(labels: &[(&str, &str)], ported: &[&str]) -> Vec<String> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let ported: Vec<Registry> = ported
            .iter()
            .map(|r| r.parse().expect("a registry"))
            .collect();
        origins(&labels.iter().map(own).collect(), &ported)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn one_label_a_host_and_its_repositories() {
        let labels = [
            (
                "containerd.io/distribution.source.docker.io",
                "library/redis,foo/bar",
            ),
            ("containerd.io/distribution.source.quay.io", "a/b"),
            ("containerd.io/gc.ref.content.0", "sha256:00"),
        ];
        assert_eq!(
            of(&labels, &[]),
            [
                "docker.io/foo/bar",
                "docker.io/library/redis",
                "quay.io/a/b"
            ]
        );
    }

    #[test]
    fn a_port_that_the_label_lacks() {
        let labels = [("containerd.io/distribution.source.10.0.0.1", "a")];
        let ported = ["10.0.0.1:5000", "10.0.0.10:5000", "10.0.0.1"];
        assert_eq!(of(&labels, &ported), ["10.0.0.1/a", "10.0.0.1:5000/a"]);
        let labels = [("containerd.io/distribution.source.fd00::1", "a")];
        assert_eq!(
            of(&labels, &["[fd00::1]:5000"]),
            ["[fd00::1]/a", "[fd00::1]:5000/a"]
        );
    }

    #[test]
    fn what_is_no_place_is_left_out() {
        let labels = [
            ("containerd.io/distribution.source.", "a"),
            ("containerd.io/distribution.source.a/b", "a"),
            ("containerd.io/distribution.source.quay.io", ",UPPER,../x,"),
        ];
        assert!(of(&labels, &[]).is_empty());
    }

    proptest! {
        #[test]
        fn a_list_of_repositories_comes_back(
            host in "[a-z][a-z0-9]{0,8}(\\.[a-z]{2,4}){0,2}",
            repositories in prop::collection::btree_set("[a-z0-9]{1,6}(/[a-z0-9]{1,6}){0,2}", 1..6),
        ) {
            let value = repositories.iter().cloned().collect::<Vec<_>>().join(",");
            let found = of(&[(&format!("{SOURCE}{host}"), &value)], &[]);
            let expected: BTreeSet<_> = repositories.iter().map(|r| format!("{host}/{r}")).collect();
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        }

        #[test]
        fn no_label_makes_it_panic(key in ".{0,80}", value in ".{0,80}") {
            of(&[(&key, &value), (&format!("{SOURCE}{key}"), &value)], &["a.b:1"]);
        }
    }
}
