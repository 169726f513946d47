//! From facts to findings.

use crate::checks::{
    ASKED, CLOCK, CONTAINERD_ANSWERS, DESCRIPTORS, HOSTS_ADDRESS, HOSTS_FIRST, HOSTS_FOLDER,
    HOSTS_OURS, HOSTS_READABLE, HOSTS_SHADOWED, MIRROR_ANSWERS, MIRROR_READY, PEERS_FOUND,
    PEERS_LACKING, PEERS_REACHED, PEERS_VERSION, TRIAL, UPSTREAM_CHECKED, UPSTREAM_REACHED,
};
use crate::facts::{AddressAnswer, Answered, Containerd, Facts, HostsFile, Mirror, Trial};
use crate::finding::Finding;

/// With fewer, a busy node refuses connections.
const FEW_FILES: u64 = 4096;
/// Certificates and signatures of a registry are checked by the clock.
const CLOCK_TOLERANCE: u64 = 60;
/// A mirror that has run for this long on a node that pulls has been asked, in seconds.
const ASKED_WITHIN: u64 = 24 * 60 * 60;
/// A mirror that has just started has not found its peers, in seconds.
const STARTING: u64 = 30;

/// Announcements outlive objects by minutes, so that one or two are in order.
const LACKING_OFTEN: u64 = 3;

const CONFIGURE: &str = "run as root on the node: peili configuration --mirror-targets http://127.0.0.1:5000\n(in Kubernetes the chart's init container does so: kubectl rollout restart daemonset)";

pub fn containerd(facts: &Facts) -> Vec<Finding> {
    match &facts.containerd {
        Containerd::None => Vec::new(),
        Containerd::Unreachable { socket, error } => vec![CONTAINERD_ANSWERS.fault(
            format!("{socket}: {error}"),
            "name containerd's socket with --containerd-sock; k3s and RKE2 have theirs at \
             /run/k3s/containerd/containerd.sock. The mirror needs the same option",
        )],
        Containerd::Reached(advice) => {
            let answers = CONTAINERD_ANSWERS.ok("yes");
            let all = advice.iter().map(|advice| Finding {
                code: advice.check.code,
                severity: advice.severity,
                text: advice.text.clone(),
                remedy: advice.remedy.clone(),
            });
            std::iter::once(answers).chain(all).collect()
        }
    }
}

pub fn hosts(facts: &Facts) -> Vec<Finding> {
    if matches!(facts.containerd, Containerd::None) {
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
        findings.push(HOSTS_FOLDER.fault(found, CONFIGURE));
        return findings;
    }
    findings.push(HOSTS_FOLDER.ok(paths.join(":")));
    findings.push(readable(&files));
    let sound: Vec<_> = files
        .into_iter()
        .filter(|file| file.problem.is_none())
        .collect();
    findings.extend(ours(&sound));
    let hidden: Vec<_> = sound
        .iter()
        .filter_map(|file| Some(format!("{} hides {}", file.path, file.hides.as_ref()?)))
        .collect();
    findings.push(match hidden.is_empty() {
        true => HOSTS_SHADOWED.ok("none does"),
        false => HOSTS_SHADOWED.warning(
            hidden.join("; "),
            "containerd reads host_port_ before host:port. Move what is needed into the folder that is read, and \
             remove the other one",
        ),
    });
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
            "every pull from that registry fails until the file is mended: correct it, or remove it and run peili \
             configuration again",
        ),
    }
}

/// Whether our mirror is in the files, and first.
fn ours(files: &[&HostsFile]) -> Vec<Finding> {
    let has_ours = |file: &&&HostsFile| file.hosts.iter().any(|(_, is_ours)| *is_ours);
    let (with, without): (Vec<_>, Vec<_>) = files.iter().partition(has_ours);
    let name = |file: &&HostsFile| file.path.clone();
    let mut findings = Vec::new();
    let lacking: Vec<_> = without.into_iter().map(name).collect();
    findings.push(match (with.is_empty(), lacking.is_empty()) {
        (false, true) => HOSTS_OURS.ok("in every file"),
        (false, false) => HOSTS_OURS.warning(
            format!(
                "not in {}: these registries are not mirrored",
                lacking.join(", ")
            ),
            "if they should be, somebody has written the file since, or it was left out on purpose \
             (--mirrored-registries): run peili configuration again, or let it run with --watch",
        ),
        (true, _) => HOSTS_OURS.fault(
            format!("in none of {}", lacking.join(", ")),
            format!(
                "somebody has written the files since: {CONFIGURE}; with --watch it repairs them"
            ),
        ),
    });
    let behind: Vec<_> = with
        .iter()
        .filter_map(|file| {
            let (first, is_ours) = file.hosts.first()?;
            (!is_ours).then(|| format!("{} has {first} first", file.path))
        })
        .collect();
    if behind.is_empty() {
        findings.push(HOSTS_FIRST.ok("everywhere"));
    } else {
        findings.push(HOSTS_FIRST.warning(
            behind.join("; "),
            "containerd asks that host first, and the mirror only for what it lacks: run peili configuration \
             --prepend-existing, which puts the mirror first and keeps the other host behind it",
        ));
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
                "a NodePort needs externalTrafficPolicy: Local (or internalTrafficPolicy: Local); better is a hostPort, or \
                 an address of this node in --mirror-targets",
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
    Some(match mirror.asked_ago {
        Some(ago) => ASKED.ok(format!("{ago} s ago")),
        None if mirror.uptime >= ASKED_WITHIN => ASKED.warning(
            format!("never in {} h", mirror.uptime / 3600),
            "pull an image with crictl pull, and look again. If the mirror is still not asked, restart containerd: it \
             reads config_path at its start",
        ),
        None => ASKED.unknown(
            format!("not yet; the mirror started {} s ago", mirror.uptime),
            "pull an image with crictl pull IMAGE, and look again",
        ),
    })
}

pub fn mirror(facts: &Facts) -> Vec<Finding> {
    let mirror = match &facts.mirror {
        Ok(mirror) => mirror,
        Err(error) => {
            return vec![MIRROR_ANSWERS.fault(
                format!("{}: {error}", facts.mirror_address),
                why_silent(&facts.addresses),
            )];
        }
    };
    let version = mirror.version.clone();
    let mut findings = vec![MIRROR_ANSWERS.ok(format!("version {version}"))];
    findings.push(match &mirror.not_ready {
        None => MIRROR_READY.ok("yes"),
        Some(why) => MIRROR_READY.fault(why.clone(), "the text says what it waits for"),
    });
    findings.push(if mirror.open_files < FEW_FILES {
        DESCRIPTORS.warning(
            format!("{} at the most", mirror.open_files),
            format!(
                "the ports take fewer connections: raise the hard limit to {FEW_FILES} or more (LimitNOFILE= of systemd, \
                 ulimit -n, or the container runtime's)"
            ),
        )
    } else {
        DESCRIPTORS.ok(format!("{} at the most", mirror.open_files))
    });
    findings.push(clock(mirror, facts));
    findings
}

/// Whether the node's clock agrees with that of whoever looks, and with most of the other nodes that were asked.
fn clock(mirror: &Mirror, facts: &Facts) -> Finding {
    let remedy = "certificates of registries are checked by the clock: set it by NTP (timedatectl set-ntp true, or chrony), \
                  and look with timedatectl whether it is synchronised";
    let off = mirror.now.abs_diff(facts.now);
    if off > CLOCK_TOLERANCE {
        let found = format!("the node's clock differs from this one by {off} s");
        return CLOCK.warning(found, remedy);
    }
    let differing = facts.clocks.iter();
    let differing = differing.filter(|clock| clock.ahead.unsigned_abs() > CLOCK_TOLERANCE);
    let differing: Vec<_> = differing.collect();
    if differing.len() * 2 <= facts.clocks.len() {
        return CLOCK.ok(match facts.clocks.len() {
            0 => "as here".to_owned(),
            asked => format!("as on most of the {asked} nodes that were asked"),
        });
    }
    let told: Vec<_> = differing
        .iter()
        .map(|clock| {
            let (seconds, name) = (clock.ahead.unsigned_abs(), &clock.name);
            match clock.ahead > 0 {
                true => format!("{seconds} s behind that of {name}"),
                false => format!("{seconds} s ahead of that of {name}"),
            }
        })
        .collect();
    CLOCK.warning(format!("this node's clock is {}", shortened(&told)), remedy)
}

/// What to do about a mirror that does not answer, by who answers where containerd would ask it.
fn why_silent(addresses: &[AddressAnswer]) -> String {
    let at = |url: &str| {
        url.rsplit_once(':')
            .map_or(url, |(_, port)| port)
            .to_owned()
    };
    for AddressAnswer { url, answer } in addresses {
        match answer {
            Answered::Something(_) => {
                let port = at(url);
                return format!(
                    "another program listens at {url}, so the mirror cannot start there. Find it with: ss -ltnp 'sport = \
                     :{port}'\nStop it, or give the mirror another --registry-addr and --mirror-targets the same port"
                );
            }
            Answered::ThisNode | Answered::OtherNode(_) => {
                return format!(
                    "a mirror answers at {url}: name the address of its metrics with --metrics-endpoint, as in its \
                     --metrics-addr"
                );
            }
            Answered::Nothing(_) => {}
        }
    }
    "start it (systemctl start peili; in Kubernetes kubectl get pods), or name the address of its metrics with \
     --metrics-endpoint. If it does not start, its log says why (journalctl -u peili)"
        .to_owned()
}

pub fn peers(facts: &Facts) -> Vec<Finding> {
    let Ok(mirror) = &facts.mirror else {
        return Vec::new();
    };
    if !mirror.looks_for_peers {
        let found = "this node looks for no peers";
        let remedy = "to share images with other hosts, set --bootstrap-kind";
        return vec![PEERS_FOUND.unknown(found, remedy)];
    }
    let peers = &mirror.peers;
    if peers.is_empty() {
        return vec![no_peers(mirror)];
    }
    let mut findings = vec![PEERS_FOUND.ok(format!("{}", peers.len()))];
    let failing: Vec<_> = peers
        .iter()
        .filter_map(|peer| Some(format!("{}: {}", peer.name, peer.error.as_ref()?)))
        .collect();
    let all_fail = failing.len() == peers.len();
    findings.push(match failing.is_empty() {
        true => PEERS_REACHED.ok("all of them"),
        false => {
            let text = shortened(&failing);
            let remedy = "look for a firewall or network policy: nodes need each other's ports 5000 and 5001";
            match all_fail {
                true => PEERS_REACHED.fault(text, remedy),
                false => PEERS_REACHED.warning(text, remedy),
            }
        }
    });
    let others: Vec<_> = peers
        .iter()
        .filter_map(|peer| {
            let version = peer.version.as_ref()?;
            (*version != mirror.version).then(|| format!("{} has {version}", peer.name))
        })
        .collect();
    if !others.is_empty() {
        findings.push(PEERS_VERSION.warning(
            format!("this node has {}, {}", mirror.version, shortened(&others)),
            "finish the update of all nodes",
        ));
    } else if peers.iter().any(|peer| peer.version.is_some()) {
        findings.push(PEERS_VERSION.ok(mirror.version.clone()));
    }
    let lacking: Vec<_> = peers
        .iter()
        .filter(|peer| peer.lacking.is_some_and(|times| times >= LACKING_OFTEN))
        .map(|peer| format!("{} ({} times)", peer.name, peer.lacking.unwrap_or_default()))
        .collect();
    if !lacking.is_empty() {
        findings.push(PEERS_LACKING.warning(
            format!("lately not: {}", shortened(&lacking)),
            "their containerd removes layers (discard_unpacked_layers) or their content path is wrong: run peili doctor \
             there",
        ));
    } else if peers.iter().any(|peer| peer.lacking.is_some()) {
        findings.push(PEERS_LACKING.ok("yes"));
    }
    findings
}

fn no_peers(mirror: &Mirror) -> Finding {
    let remedy = "compare --bootstrap-kind and its options with where the other nodes are; a DNS name has to resolve to \
                  their addresses, and their port 5001 has to be open. A cluster of one node is in order";
    match &mirror.bootstrap_error {
        Some(error) => PEERS_FOUND.fault(error.clone(), remedy),
        None if mirror.uptime < STARTING => {
            PEERS_FOUND.unknown("none yet", "look again in a minute")
        }
        None => PEERS_FOUND.warning("none", remedy),
    }
}

pub fn upstream(facts: &Facts) -> Vec<Finding> {
    let Ok(mirror) = &facts.mirror else {
        return Vec::new();
    };
    let registries = &mirror.registries;
    if registries.is_empty() {
        return Vec::new();
    }
    let unreachable: Vec<_> = registries
        .iter()
        .filter_map(|r| Some(format!("{}: {}", r.name, r.unreachable.as_ref()?)))
        .collect();
    let failing: Vec<_> = registries
        .iter()
        .filter_map(|r| Some(format!("{}: {}", r.name, r.failing.as_ref()?)))
        .collect();
    vec![
        match unreachable.is_empty() {
            true => UPSTREAM_REACHED.ok(format!("{} asked", registries.len())),
            false => UPSTREAM_REACHED.warning(
                shortened(&unreachable),
                "images that nodes have still pull, and tags are the last known ones. If containerd reaches the registry and the \
                 mirror does not, let it see the same hosts.toml, certificates and proxies",
            ),
        },
        match failing.is_empty() {
            true => UPSTREAM_CHECKED.ok("yes"),
            false => UPSTREAM_CHECKED.warning(
                shortened(&failing),
                "while this lasts, tags are asked upstream by containerd, and repositories that were not public lately are \
                 not shared",
            ),
        },
    ]
}

pub fn trial(facts: &Facts) -> Option<Finding> {
    let mirror = facts.mirror.as_ref().ok()?;
    Some(match mirror.trial.as_ref()? {
        Trial::CameThrough { milliseconds } => {
            TRIAL.ok(format!("containerd pulled it in {milliseconds} ms"))
        }
        Trial::Failed(why) => TRIAL.fault(
            why.clone(),
            "containerd does not ask the mirror: see the findings about containerd and hosts.toml, and restart \
             containerd if its configuration was changed since it started",
        ),
    })
}

/// The first few of a list.
fn shortened(all: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = all[..all.len().min(SHOWN)].join("; ");
    match all.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown}; and {more} more"),
    }
}

#[cfg(test)]
mod tests;
