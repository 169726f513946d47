//! The findings about containerd's registry configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::checks::{
    ASKED, HOSTS_ADDRESS, HOSTS_FIRST, HOSTS_FOLDER, HOSTS_OURS, HOSTS_READABLE, HOSTS_SHADOWED,
    NODE_SECRET,
};
use crate::facts::{Answered, Containerd, Facts, HostsFile, HostsFolder};
use crate::finding::Finding;

/// A mirror that has run for this long on a node that pulls must have got requests, in seconds.
const ASKED_WITHIN: u64 = 24 * 60 * 60;
/// The defaults of containerd's registry configuration and of the mirror's address.
const DEFAULT_FOLDER: &str = "/etc/containerd/certs.d";
const DEFAULT_PORT: u16 = 5000;

pub fn hosts(facts: &Facts) -> Vec<Finding> {
    // Without the mirror it is unknown which folder containerd reads.
    if matches!(
        facts.containerd,
        Containerd::None | Containerd::Unknown { .. }
    ) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let folders = &facts.hosts;
    let paths: Vec<_> = folders.iter().map(|folder| folder.path.as_str()).collect();
    let files: Vec<_> = folders.iter().flat_map(|folder| &folder.files).collect();
    let problems = folders.iter().filter_map(|folder| {
        let problem = folder.problem.as_ref()?;
        Some(format!(
            "containerd's folder {} cannot be read: {problem}",
            folder.path
        ))
    });
    let problems: Vec<_> = problems.collect();
    if files.is_empty() {
        let found = match problems.is_empty() {
            true => format!(
                "{} has no hosts.toml: containerd asks no mirror",
                paths.join(":")
            ),
            false => problems.join("; "),
        };
        let asked_ago = facts
            .mirror
            .as_ref()
            .ok()
            .and_then(|mirror| mirror.asked_ago_s);
        findings.push(match asked_ago {
            // A mirror in a container may not see the folder. That is not a fault: containerd does.
            Some(ago) if !problems.is_empty() && ago < ASKED_WITHIN => HOSTS_FOLDER.unknown(
                format!("{found}; but containerd has asked the mirror {ago} s ago"),
                format!(
                    "mount the folder in the mirror's container, or name it with --containerd-registry-config-path. If it is missing \
                     on the node itself, {}",
                    configure(facts)
                ),
            ),
            _ => HOSTS_FOLDER.fault(found, configure(facts)),
        });
        return findings;
    }
    findings.push(HOSTS_FOLDER.ok(paths.join(":")));
    findings.push(readable(&files));
    let sound: Vec<_> = files
        .into_iter()
        .filter(|file| file.problem.is_none())
        .collect();
    // Nothing more is known of unreadable files.
    if !sound.is_empty() {
        findings.extend(ours(&sound, facts));
    }
    findings.push(read(&sound, folders));
    findings.extend(secret(&sound, facts));
    findings.extend(addresses(facts));
    findings.extend(asked(facts));
    findings
}

fn readable(files: &[&HostsFile]) -> Finding {
    let broken = files
        .iter()
        .filter_map(|file| Some(format!("{}: {}", file.path, file.problem.as_ref()?)));
    let broken: Vec<_> = broken.collect();
    match broken.is_empty() {
        true => HOSTS_READABLE.ok(format!("{} of {}", files.len(), files.len())),
        false => HOSTS_READABLE.fault(
            broken.join("; "),
            "correct the file, or move it away and run peili configuration again",
        ),
    }
}

/// Whether this cluster's mirror is in the files, as containerd needs it, and first.
fn ours(files: &[&HostsFile], facts: &Facts) -> Vec<Finding> {
    let has_ours = |file: &&&HostsFile| has_mirror(file) && file.in_vain.is_none();
    let (with, without): (Vec<&&HostsFile>, Vec<&&HostsFile>) = files.iter().partition(has_ours);
    let port = port_of(facts);
    let lacking = without
        .into_iter()
        .map(|file| match (&file.in_vain, loopback_of(file)) {
            (Some(why), _) => format!("{} (it is listed in vain: {why})", file.path),
            (None, Some(url)) => format!(
                "{} (it has {url}, and the mirror listens at port {port})",
                file.path
            ),
            (None, None) => file.path.clone(),
        });
    let empty = facts.hosts.iter().flat_map(|folder| &folder.empty);
    let is_hidden = with.iter().any(|file| file.registry.is_none());
    let empty = empty.filter(|_| is_hidden).map(|path| {
        format!("{path} (without a hosts.toml, and for it containerd does not read _default)")
    });
    let lacking: Vec<_> = lacking.chain(empty).collect();
    let mut findings = Vec::new();
    findings.push(match (with.is_empty(), lacking.is_empty()) {
        (false, true) => HOSTS_OURS.ok("in every file"),
        (false, false) => HOSTS_OURS.warning(
            format!("not in {}: these registries are not mirrored", lacking.join(", ")),
            format!(
                "if they were left out on purpose (--mirrored-registries), nothing is to be done. Else remove an empty folder, and \
                 {}\nWith --watch it repairs what somebody changes",
                configure(facts)
            ),
        ),
        (true, _) => HOSTS_OURS.fault(
            format!("in none of {}", lacking.join(", ")),
            format!("somebody has written the files since: {}\nWith --watch it repairs them", configure(facts)),
        ),
    });
    let behind: Vec<_> = with
        .iter()
        .filter_map(|file| {
            let (first, is_ours) = file.hosts.first()?;
            (!is_ours).then_some((file, first))
        })
        .collect();
    if behind.is_empty() {
        findings.push(HOSTS_FIRST.ok("everywhere"));
    } else {
        let keeps = match behind.iter().any(|(file, _)| file.by_mirror) {
            true => {
                "The file is Peili's, so this drops what was added to it by hand. To keep another host behind the mirror, write \
                 a hosts.toml without Peili's first line, and add --prepend-existing to the command"
            }
            false => "With --prepend-existing it keeps the other host behind the mirror",
        };
        let error_of = |first: &String| {
            let mut silent = facts.silent_hosts.iter();
            silent.find_map(|(host, error)| (host == first).then_some(error))
        };
        // A name may lead through a proxy that only containerd has.
        let is_dead = |first: &String| error_of(first).is_some() && has_ip_address(first);
        let is_any_dead = behind.iter().any(|(_, first)| is_dead(first));
        let behind = behind.iter().map(|(file, first)| match error_of(first) {
            Some(error) => format!(
                "{} has {first} first, where nothing answers: {error}",
                file.path
            ),
            None => format!("{} has {first} first", file.path),
        });
        let found = behind.collect::<Vec<_>>().join("; ");
        findings.push(match is_any_dead {
            false => HOSTS_FIRST.warning(
                found,
                format!(
                    "containerd asks that host first, and the mirror only for what it lacks: {}\n{keeps}",
                    configure(facts)
                ),
            ),
            true => HOSTS_FIRST.fault(
                found,
                format!(
                    "containerd waits for that host at every request. To put the mirror first, {}\n{keeps}",
                    configure(facts)
                ),
            ),
        });
    }
    findings
}

fn addresses(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for address in &facts.addresses {
        let url = &address.url;
        findings.push(match &address.answer {
            Answered::ThisNode => HOSTS_ADDRESS.ok(url.clone()),
            Answered::OtherNode(node) => HOSTS_ADDRESS.fault(
                format!("{url} is answered by the mirror of node {node}"),
                format!("{}\nIf a service of Kubernetes leads there, set service.registry.mode: hostPort in the chart's values", configure(facts)),
            ),
            Answered::Something(what) => HOSTS_ADDRESS.fault(
                format!("{url} is answered, but not by this mirror: {what}"),
                "another program listens there: give the mirror another --registry-addr, and --mirror-targets the \
                 same port",
            ),
            Answered::Nothing(error) => HOSTS_ADDRESS.fault(
                format!("{url}: {error}"),
                "containerd waits for it at every pull: compare --mirror-targets with --registry-addr, and look for a \
                 firewall or network policy between them",
            ),
        });
    }
    findings
}

fn asked(facts: &Facts) -> Option<Finding> {
    let mirror = facts.mirror.as_ref().ok()?;
    let folder = facts
        .hosts
        .first()
        .map_or("/etc/containerd/certs.d", |folder| &folder.path);
    let pull = format!(
        "run crictl pull IMAGE, or ctr -n k8s.io images pull --hosts-dir {folder} IMAGE, with an image that is there already (ctr -n \
         k8s.io images ls), and look again"
    );
    Some(match mirror.asked_ago_s {
        Some(ago) => ASKED.ok(format!("{ago} s ago")),
        None if mirror.uptime_s >= ASKED_WITHIN => ASKED.warning(
            format!("never in {} h", mirror.uptime_s / 3600),
            format!("{pull}. If ctr leads to the mirror and crictl does not, restart containerd: it reads config_path at its start"),
        ),
        None => ASKED.unknown(
            format!("not yet; the mirror started {} s ago", mirror.uptime_s),
            pull,
        ),
    })
}

/// Whether containerd reads the files.
fn read(files: &[&HostsFile], folders: &[HostsFolder]) -> Finding {
    let hidden = files
        .iter()
        .filter_map(|file| Some(format!("{} hides {}", file.path, file.hides.as_ref()?)));
    let unread = folders.iter().flat_map(|folder| &folder.unread);
    let unread = unread.map(|(path, instead)| format!("{path} is never read, but {instead} is"));
    let all: Vec<_> = hidden.chain(unread).collect();
    match all.is_empty() {
        true => HOSTS_SHADOWED.ok("all that is there"),
        false => HOSTS_SHADOWED.warning(
            all.join("; "),
            "move what is needed to where containerd reads it, and remove the other one (host_port_ is read before \
             host:port, Docker Hub is docker.io, and of several folders the first that has the registry or _default)",
        ),
    }
}

/// Whether containerd sends the secret by which the mirror recognises it.
fn secret(files: &[&HostsFile], facts: &Facts) -> Option<Finding> {
    let known = facts.mirror.as_ref().ok()?.node_secret.as_ref()?;
    let other = files
        .iter()
        .filter(|file| has_mirror(file) && file.secret.as_ref() != Some(known));
    let other: Vec<_> = other
        .map(|file| match file.secret {
            Some(_) => format!("{} has another one than the mirror", file.path),
            None => format!("{} has none, but the mirror expects one", file.path),
        })
        .collect();
    Some(match other.is_empty() {
        true => NODE_SECRET.ok("the same in hosts.toml and in the mirror"),
        false => NODE_SECRET.warning(
            format!(
                "{}: the mirror does not know this node's containerd",
                other.join("; ")
            ),
            configure(facts),
        ),
    })
}

/// Whether a URL names its host by an IP address.
fn has_ip_address(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, host)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<SocketAddr>().is_ok() || bare.parse::<IpAddr>().is_ok()
}

/// A host in a file that is on this node and is not the mirror.
fn loopback_of(file: &HostsFile) -> Option<&str> {
    const LOOPBACK: [&str; 3] = ["http://127.", "http://localhost", "http://[::1]"];
    let others = file.hosts.iter().filter(|(_, is_ours)| !is_ours);
    let mut others = others.map(|(url, _)| url.as_str());
    others.find(|url| LOOPBACK.iter().any(|start| url.starts_with(start)))
}

/// The port of the mirror, as far as is known.
fn port_of(facts: &Facts) -> u16 {
    let port = facts
        .mirror
        .as_ref()
        .ok()
        .map(|mirror| mirror.registry_port);
    port.filter(|port| *port != 0).unwrap_or(DEFAULT_PORT)
}

fn has_mirror(file: &HostsFile) -> bool {
    file.hosts.iter().any(|(_, is_ours)| *is_ours)
}

/// The command that writes hosts.toml for this mirror.
fn configure(facts: &Facts) -> String {
    let mirror = facts.mirror.as_ref().ok();
    let ip = mirror.and_then(|mirror| mirror.registry_ip);
    let target = SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), port_of(facts));
    let paths: Vec<_> = facts
        .hosts
        .iter()
        .map(|folder| folder.path.as_str())
        .collect();
    let paths = paths.join(":");
    let folder = match paths.as_str() {
        "" | DEFAULT_FOLDER => String::new(),
        paths => format!(" --containerd-registry-config-path {paths}"),
    };
    let registries = mirror.map_or(String::new(), |mirror| mirror.mirrored_registries.join(","));
    let registries = match registries.as_str() {
        "" => String::new(),
        registries => format!(" --mirrored-registries {registries}"),
    };
    let secret = match mirror.is_some_and(|mirror| mirror.node_secret.is_some()) {
        true => " --node-secret-file FILE, with the file that the mirror has",
        false => "",
    };
    format!(
        "run as root on the node: peili configuration --mirror-targets http://{target}{registries}{folder}{secret}\ncontainerd reads it \
         at the next pull. (In Kubernetes the chart's init container writes it: kubectl rollout restart daemonset)"
    )
}
