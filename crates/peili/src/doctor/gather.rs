//! Gathers the facts for the doctor's rules on this node.

use std::collections::BTreeSet;
use std::env;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::doctor::checks::{
    CONFIG_PATH, CONTAINERD_VERSION, CONTENT_READABLE, CRI, IN_FORCE, LAYERS_KEPT, PULL_MODE,
};
use ::doctor::{
    AddressAnswer, Advice, Answered, Containerd, ContainerdPaths, Facts, HostsFile, HostsFolder,
    Mirror, Severity,
};
use containerd::{Setup, State, Topic};
use futures::future::join_all;
use hosts::ConfigPath;
use hosts::probe::{self, Endpoint, MirrorName};
use mirror::Secret;
use oci::{RegistryUrl, Scheme};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::platforms;
use crate::next_hosts::leads_here;
use crate::value;

/// The port of a mirror that does not report it.
const DEFAULT_PORT: u16 = 5000;
/// The limit for connecting to a host before the mirror, and the most hosts that are tried.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const MAX_HOSTS: usize = 64;

/// The mirror of this node. Nodes may share a name, as machines that were copied do.
#[derive(Clone, Copy, Debug, Default)]
struct OwnMirror<'a> {
    node: &'a str,
    /// The id of its router. Empty: it does not say.
    peer: &'a str,
}

impl OwnMirror<'_> {
    fn is(&self, other: &MirrorName) -> bool {
        let is_same = |peer: &String| self.peer.is_empty() || self.peer == peer;
        self.node == other.node && other.peer.as_ref().is_none_or(is_same)
    }
}

/// Examines containerd and its files, and the servers at the addresses in them. `mirror`: the mirror's report on
/// itself, with the name of its node.
pub async fn gather(
    paths: Option<ContainerdPaths>,
    mirror: Result<(String, Mirror), String>,
    mirror_address: String,
    is_installed: bool,
) -> Facts {
    let (mut containerd, mut hosts, mut addresses) = (Containerd::None, Vec::new(), Vec::new());
    let mut silent_hosts = Vec::new();
    if let Some(paths) = paths {
        let port = mirror.as_ref().ok().map(|(_, mirror)| mirror.registry_port);
        // Empty where the mirror does not answer, so that whatever answers instead is reported.
        let own = mirror.as_ref().map_or_else(
            |_| OwnMirror::default(),
            |(node, mirror)| OwnMirror {
                node,
                peer: &mirror.peer_id,
            },
        );
        let retained_for = mirror
            .as_ref()
            .ok()
            .and_then(|(_, mirror)| mirror.retained_for_s);
        let (said, (folders, mut urls)) = tokio::join!(
            look_at(&paths, retained_for),
            registry_configuration(&paths, port, own)
        );
        containerd = said;
        if mirror.is_err() && urls.is_empty() {
            // Another program on the mirror's default port keeps the mirror from starting.
            urls.extend(format!("http://127.0.0.1:{DEFAULT_PORT}").parse::<RegistryUrl>());
        }
        silent_hosts = find_silent_hosts(&folders).await;
        hosts = folders;
        for url in urls {
            addresses.push(AddressAnswer {
                answer: answered(&url, own).await,
                url: url.to_string(),
            });
        }
    }
    Facts {
        containerd,
        hosts,
        addresses,
        silent_hosts,
        now: now(),
        mirror_address,
        mirror: mirror.map(|(_, mirror)| mirror),
        is_installed,
    }
}

/// The hosts before the mirror at which nothing listens, and the error. containerd asks them first.
async fn find_silent_hosts(folders: &[HostsFolder]) -> Vec<(String, String)> {
    let files = folders.iter().flat_map(|folder| &folder.files);
    let firsts = files.filter_map(|file| match file.hosts.split_first()? {
        ((url, false), rest) if rest.iter().any(|(_, is_ours)| *is_ours) => Some(url),
        _ => None,
    });
    // A pod has a loopback of its own, which says nothing about the node's.
    let is_pod = env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let firsts: BTreeSet<_> = firsts.collect();
    let asked = firsts.into_iter().take(MAX_HOSTS).map(async |text| {
        let url = text.parse::<RegistryUrl>().ok()?;
        if is_pod && leads_here(&url).is_some() {
            return None;
        }
        let connected = timeout(CONNECT_LIMIT, TcpStream::connect(host_and_port(&url))).await;
        let error = match connected {
            Ok(Ok(_)) => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no connection in {CONNECT_LIMIT:?}"),
        };
        Some((text.clone(), error))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// A URL's host and port, as a socket is connected.
fn host_and_port(url: &RegistryUrl) -> String {
    let name = url.registry.as_str();
    let has_port = name
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']'));
    match (has_port, url.scheme) {
        (true, _) => name.to_owned(),
        (false, Scheme::Http) => format!("{name}:80"),
        (false, Scheme::Https) => format!("{name}:443"),
    }
}

/// The time in seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// The report of containerd at a socket. `retained_for`: how long the mirror keeps layers, in seconds.
async fn look_at(paths: &ContainerdPaths, retained_for: Option<u64>) -> Containerd {
    let config = containerd::Config {
        socket: paths.socket.clone().into(),
        namespaces: Vec::new(),
        content_path: value::path(&paths.content),
        registries: Vec::new(),
        retain: None,
    };
    let folders = paths.registry_config.parse::<ConfigPath>();
    let setup = Setup {
        config_file: paths.config.clone().into(),
        registry_config_paths: folders
            .map(|path| path.folders().to_vec())
            .unwrap_or_default(),
    };
    match containerd::check(&config, &setup, retained_for.map(Duration::from_secs)).await {
        Ok(findings) => Containerd::Reached(findings.into_iter().map(advice).collect()),
        Err(error) => Containerd::Unreachable {
            socket: paths.socket.clone(),
            error: error.to_string(),
            elsewhere: platforms::listening(&paths.socket),
        },
    }
}

/// containerd's registry configuration, and the mirrors in it. `port`: the mirror's; `None`: it does not answer.
///
/// An entry that the operator or the operating system has written may name a host port or node port, which only the
/// mirror that answers there can confirm.
async fn registry_configuration(
    paths: &ContainerdPaths,
    port: Option<u16>,
    own: OwnMirror<'_>,
) -> (Vec<HostsFolder>, Vec<RegistryUrl>) {
    let read = |confirmed: Vec<RegistryUrl>| {
        let paths = paths.clone();
        let read = spawn_blocking(move || read_hosts_files(&paths, port, &confirmed));
        // A panic of the task is logged where it happens.
        async { read.await.unwrap_or_default() }
    };
    let found = read(Vec::new()).await;
    let files = found.0.iter().flat_map(|folder| &folder.files);
    let others = files.filter(|file| !file.hosts.iter().any(|(_, is_ours)| *is_ours));
    let urls = others.flat_map(|file| &file.hosts);
    let urls: BTreeSet<_> = urls.map(|(url, _)| url).collect();
    let urls = urls.into_iter().filter_map(|url| url.parse().ok());
    let asked = urls
        .filter(|url: &RegistryUrl| url.scheme == Scheme::Http)
        .map(async |url| matches!(answered(&url, own).await, Answered::ThisNode).then_some(url));
    let confirmed: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    match confirmed.is_empty() {
        true => found,
        false => read(confirmed).await,
    }
}

/// `confirmed`: addresses where the mirror of this node answers.
fn read_hosts_files(
    paths: &ContainerdPaths,
    port: Option<u16>,
    confirmed: &[RegistryUrl],
) -> (Vec<HostsFolder>, Vec<RegistryUrl>) {
    let mut urls: Vec<RegistryUrl> = Vec::new();
    let config_path = match paths.registry_config.parse::<ConfigPath>() {
        Ok(config_path) => config_path,
        Err(error) => {
            let folder = HostsFolder {
                path: paths.registry_config.clone(),
                problem: Some(error.to_string()),
                files: Vec::new(),
                empty: Vec::new(),
                unread: Vec::new(),
            };
            return (vec![folder], urls);
        }
    };
    // Files written by hand name the mirror by an address of this host and its port; another registry may be here too.
    let is_mirror = |url: &RegistryUrl| match port {
        _ if confirmed.contains(url) => true,
        // Whatever the file says, no other program has this port.
        Some(port) => leads_here(url) == Some(port),
        None => url.scheme == Scheme::Http && leads_here(url) == Some(DEFAULT_PORT),
    };
    let folders = hosts::inspect(&config_path, is_mirror);
    let folders = folders.into_iter().map(|folder| HostsFolder {
        path: folder.path.display().to_string(),
        problem: folder.problem,
        empty: folder
            .empty
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        unread: folder
            .unread
            .into_iter()
            .map(|(path, instead)| (path.display().to_string(), instead))
            .collect(),
        files: folder
            .files
            .into_iter()
            .map(|file| {
                // A second mirror is that of another node, as a fallback.
                let ours = file.hosts.iter().find(|(_, is_ours)| *is_ours);
                if let Some((url, _)) = ours
                    && !urls.contains(url)
                {
                    urls.push(url.clone());
                }
                HostsFile {
                    path: file.path.display().to_string(),
                    registry: file.registry.map(|registry| registry.to_string()),
                    problem: file.problem,
                    by_mirror: file.by_mirror,
                    in_vain: file.in_vain,
                    secret: file.secret.map(|text| Secret::new(text).fingerprint()),
                    hosts: file
                        .hosts
                        .into_iter()
                        .map(|(url, is_ours)| (url.to_string(), is_ours))
                        .collect(),
                    hides: file.hides.map(|hidden| hidden.display().to_string()),
                }
            })
            .collect(),
    });
    (folders.collect(), urls)
}

fn advice(finding: containerd::Finding) -> Advice {
    let (check, worst) = match finding.what {
        Topic::Version => (&CONTAINERD_VERSION, Severity::Warning),
        Topic::RegistryConfig => (&CONFIG_PATH, Severity::Fault),
        Topic::InForce => (&IN_FORCE, Severity::Warning),
        Topic::Cri => (&CRI, Severity::Fault),
        Topic::PullMode => (&PULL_MODE, Severity::Warning),
        Topic::Layers => (&LAYERS_KEPT, Severity::Warning),
        Topic::Content => (&CONTENT_READABLE, Severity::Fault),
    };
    let severity = match finding.state {
        State::Ok => Severity::Ok,
        State::Warning => worst,
        State::Unknown => Severity::Unknown,
    };
    let needs_remedy = severity != Severity::Ok && finding.remedy.is_none();
    Advice {
        check,
        severity,
        text: finding.found,
        remedy: match needs_remedy {
            true => Some("run this command on the node itself, as root".to_owned()),
            false => finding.remedy,
        },
    }
}

/// The server that answers at a mirror's address.
async fn answered(url: &RegistryUrl, own: OwnMirror<'_>) -> Answered {
    let endpoint = match host_and_port(url).parse::<Endpoint>() {
        Ok(endpoint) => endpoint,
        Err(error) => return Answered::Nothing(error.to_string()),
    };
    match probe::mirror_at(&endpoint).await {
        Ok(Some(mirror)) if own.is(&mirror) => Answered::ThisNode,
        Ok(Some(MirrorName { node, .. })) if node == own.node => {
            Answered::OtherNode(format!("{node}, which is another one of the same name"))
        }
        Ok(Some(MirrorName { node, .. })) => Answered::OtherNode(node),
        Ok(None) => Answered::Something("it does not say of which node it is".to_owned()),
        Err(error) => Answered::Nothing(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Something at a port of this host that says that it is a mirror.
    async fn mirror_of(node: &'static str, peer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nx-peili-node: {node}\r\nx-peili-peer: {peer}\r\ncontent-length: 0\r\n\r\n"
                );
                // A connection that closes with unread bytes is reset.
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    /// A node port or host port, in an entry that neither Peili nor Spegel wrote.
    #[tokio::test]
    async fn an_entry_at_an_unknown_port_is_the_mirrors_if_it_answers_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let (own, other) = (mirror_of("n1", "a").await, mirror_of("n2", "b").await);
        let of_same_name = mirror_of("n1", "c").await;
        for (registry, port) in [
            ("one.example", own),
            ("two.example", other),
            ("three.example", of_same_name),
        ] {
            let entry = folder.path().join(registry);
            fs::create_dir(&entry).expect("a folder");
            let text =
                format!("server = \"https://{registry}\"\n[host.\"http://127.0.0.1:{port}\"]\n");
            fs::write(entry.join("hosts.toml"), text).expect("a file");
        }
        let this = OwnMirror {
            node: "n1",
            peer: "a",
        };
        let paths = ContainerdPaths {
            socket: String::new(),
            content: String::new(),
            config: String::new(),
            registry_config: folder.path().display().to_string(),
        };
        let (folders, urls) = registry_configuration(&paths, Some(5000), this).await;
        let urls: Vec<_> = urls.iter().map(ToString::to_string).collect();
        assert_eq!(urls, [format!("http://127.0.0.1:{own}")]);
        let files = folders.iter().flat_map(|folder| &folder.files);
        let ours: Vec<_> = files
            .filter(|file| file.hosts.iter().any(|(_, is_ours)| *is_ours))
            .filter_map(|file| file.registry.as_deref())
            .collect();
        assert_eq!(ours, ["one.example"]);
    }
}
