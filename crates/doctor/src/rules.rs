//! Derives findings from facts.

mod hosts;
mod peers;

pub use hosts::hosts;
pub use peers::peers;

use crate::checks::{
    CLOCK, CONTAINERD_ANSWERS, DESCRIPTORS, MIRROR_ANSWERS, MIRROR_READY, TRIAL, UPSTREAM_CHECKED,
    UPSTREAM_REACHED,
};
use crate::facts::{AddressAnswer, Answered, Containerd, ContainerdPaths, Facts, Mirror, Trial};
use crate::finding::Finding;

/// The number of files below which a busy node refuses connections.
const FEW_FILES: u64 = 4096;
/// The tolerated clock difference, in seconds: certificates and signatures of a registry are checked against the clock.
const CLOCK_TOLERANCE: u64 = 60;

/// Named by a mirror that refuses clients on other hosts.
const PAGE_ACCESS: &str = "--page-access";

pub fn containerd(facts: &Facts) -> Vec<Finding> {
    match &facts.containerd {
        Containerd::None => Vec::new(),
        Containerd::Unknown { socket } => {
            let found = format!(
                "it is not at {socket}, and the mirror, which knows where, does not answer"
            );
            vec![CONTAINERD_ANSWERS.unknown(found, "name its socket with --containerd-sock")]
        }
        Containerd::Unreachable {
            socket,
            error,
            elsewhere,
        } => vec![CONTAINERD_ANSWERS.fault(format!("{socket}: {error}"), socket_remedy(elsewhere))],
        Containerd::Reached(advice) => {
            let answers = CONTAINERD_ANSWERS.ok("yes");
            let all = advice.iter();
            let all = all.map(|a| a.check.finding(a.severity, &a.text, a.remedy.clone()));
            std::iter::once(answers).chain(all).collect()
        }
    }
}

/// What to do if containerd does not listen, but another one does elsewhere.
fn socket_remedy(elsewhere: &[ContainerdPaths]) -> String {
    if elsewhere.is_empty() {
        return "start containerd, or name its socket with --containerd-sock. The mirror needs the same option".to_owned();
    }
    let options = elsewhere.iter().map(|paths| {
        format!(
            "    --containerd-sock {} --containerd-config {} --containerd-registry-config-path {}",
            paths.socket, paths.config, paths.registry_config
        )
    });
    let options: Vec<_> = options.collect();
    format!(
        "another containerd listens on this host. If it is the kubelet's, give this command and the mirror (in Kubernetes: set \
         platform):\n{}",
        options.join("\n")
    )
}

pub fn mirror(facts: &Facts) -> Vec<Finding> {
    let mirror = match &facts.mirror {
        Ok(mirror) => mirror,
        Err(error) => {
            let remedy = match error.contains(PAGE_ACCESS) {
                true => "the error says how".to_owned(),
                false => why_silent(&facts.addresses),
            };
            return vec![
                MIRROR_ANSWERS.fault(format!("{}: {error}", facts.mirror_address), remedy),
            ];
        }
    };
    let version = mirror.version.clone();
    let mut findings = vec![MIRROR_ANSWERS.ok(format!("version {version}"))];
    findings.push(match &mirror.not_ready {
        None => MIRROR_READY.ok("yes"),
        Some(why) => MIRROR_READY.fault(
            why.clone(),
            "the text says what it waits for. It tries again by itself: look again with peili doctor --wait 1m",
        ),
    });
    findings.push(if mirror.open_files < FEW_FILES {
        DESCRIPTORS.warning(
            format!("limit {}", mirror.open_files),
            format!(
                "the ports take fewer connections: raise the hard limit to {FEW_FILES} or more (LimitNOFILE= of systemd, \
                 ulimit -n, or the container runtime's)"
            ),
        )
    } else {
        DESCRIPTORS.ok(format!("limit {}", mirror.open_files))
    });
    findings.push(clock(mirror, facts));
    findings
}

/// Whether the node's clock agrees with the observer's, and with most of the other nodes that were asked.
fn clock(mirror: &Mirror, facts: &Facts) -> Finding {
    let remedy = "certificates of registries are checked by the clock: set it by NTP (timedatectl set-ntp true, or chrony), \
                  and look with timedatectl whether it is synchronised";
    let off = mirror.now.abs_diff(facts.now);
    if off > CLOCK_TOLERANCE {
        let found = format!("the node's clock differs from this one by {off} s");
        return CLOCK.warning(found, remedy);
    }
    let clocks = clocks(mirror);
    let differing = differing(mirror, CLOCK_TOLERANCE);
    if !are_most(&differing, mirror) {
        return CLOCK.ok(match clocks.as_slice() {
            [] => "there is no other node to compare it with".to_owned(),
            [clock] => format!("as on {}", clock.name),
            clocks if differing.is_empty() => format!("as on {} other nodes", clocks.len()),
            clocks => format!("as on most of {} other nodes", clocks.len()),
        });
    }
    let told: Vec<_> = differing
        .iter()
        .map(|clock| {
            let (seconds, name) = (clock.ahead.unsigned_abs(), clock.name);
            match clock.ahead > 0 {
                true => format!("{seconds} s behind that of {name}"),
                false => format!("{seconds} s ahead of that of {name}"),
            }
        })
        .collect();
    CLOCK.warning(format!("this node's clock is {}", shortened(&told)), remedy)
}

/// The clock of a peer, and how many seconds it is ahead of this node's.
struct PeerClock<'a> {
    name: &'a str,
    ahead: i64,
}

/// The clocks that were read.
fn clocks(mirror: &Mirror) -> Vec<PeerClock<'_>> {
    let clocks = mirror.peers.iter().filter_map(|peer| {
        let (name, ahead) = (&peer.name, peer.clock_ahead_s?);
        Some(PeerClock { name, ahead })
    });
    clocks.collect()
}

/// The clocks that differ by more than this, in seconds.
fn differing(mirror: &Mirror, tolerance: u64) -> Vec<PeerClock<'_>> {
    let mut clocks = clocks(mirror);
    clocks.retain(|clock| clock.ahead.unsigned_abs() > tolerance);
    clocks
}

/// Whether most of the clocks that were read differ: then this node's clock is wrong.
fn are_most(differing: &[PeerClock<'_>], mirror: &Mirror) -> bool {
    differing.len() * 2 > clocks(mirror).len()
}

/// What to do about a mirror that does not answer, by the server that answers at the address for containerd.
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
                 mirror does not, give the mirror the same hosts.toml and certificates (--containerd-registry-config-path) and \
                 proxies (HTTPS_PROXY)",
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
