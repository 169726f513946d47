//! The findings about the other nodes, and about the key that admits this one.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{are_most, differing, shortened};
use crate::checks::{
    NETWORK_KEY, PEERS_FOUND, PEERS_LACKING, PEERS_REACHED, PEERS_VERSION, SEEN_BY_PEERS,
};
use crate::facts::{Facts, KeyFile, Mirror, Peer};
use crate::finding::Finding;

/// The time in which a mirror that has just started need not have found its peers, in seconds.
const STARTING: u64 = 30;
/// The number of lacking objects that is a finding: announcements outlive objects by minutes, so one or two are normal.
pub(super) const LACKING_OFTEN: u64 = 3;
/// With a network key, nodes whose clocks differ by more than this, in seconds, refuse each other's requests.
pub(super) const PROOF_TOLERANCE: u64 = network_key::MAX_CLOCK_DIFFERENCE.as_secs();

pub fn peers(facts: &Facts) -> Vec<Finding> {
    let Ok(mirror) = &facts.mirror else {
        return Vec::new();
    };
    let mut findings = Vec::from_iter(network_key(mirror));
    if !mirror.looks_for_peers {
        let found = "this node looks for no peers";
        let remedy = "to share images with other hosts, set --bootstrap-kind";
        findings.push(PEERS_FOUND.unknown(found, remedy));
        return findings;
    }
    let peers = &mirror.peers;
    if peers.is_empty() {
        findings.push(no_peers(mirror));
        return findings;
    }
    findings.push(PEERS_FOUND.ok(format!("{}", peers.len())));
    findings.push(reached(mirror));
    findings.extend(seen_by_peers(mirror));
    findings.extend(version(mirror));
    findings.extend(lacking(mirror));
    findings
}

fn reached(mirror: &Mirror) -> Finding {
    let peers = &mirror.peers;
    let unexplained = peers
        .iter()
        .filter(|peer| !is_stranger(peer, mirror) && !lacks_often(peer));
    let unexplained: Vec<_> = unexplained.collect();
    let failing = unexplained.iter().filter_map(|peer| {
        let error = peer.error.as_ref()?;
        Some(format!("{}: {error}", label(peer)))
    });
    let failing: Vec<_> = failing.collect();
    if failing.is_empty() {
        let answered = peers.iter().filter(|peer| peer.clock_ahead_s.is_some());
        return PEERS_REACHED.ok(match (unexplained.len(), answered.count()) {
            (explained, _) if explained < peers.len() => "all others".to_owned(),
            (all, answered) if answered < all => {
                format!("{answered} of {all} answered, and no request to another one failed lately")
            }
            _ => "all of them".to_owned(),
        });
    }
    let text = shortened(&failing);
    let remedy = "if several nodes name the same peer, look there, else here: for a firewall or network policy (iptables -S, nft \
                  list ruleset). Nodes need each other's ports 5000 and 5001";
    match failing.len() == peers.len() {
        true => PEERS_REACHED.fault(text, remedy),
        false => PEERS_REACHED.warning(text, remedy),
    }
}

/// Whether the peers that tried could connect to this node.
fn seen_by_peers(mirror: &Mirror) -> Option<Finding> {
    let tried = mirror.peers.iter();
    let tried = tried.filter_map(|peer| Some((peer, peer.unreached.as_ref()?)));
    let tried: Vec<_> = tried.collect();
    let failed = tried.iter().filter(|(_, unreached)| !unreached.is_empty());
    let failed: Vec<_> = failed.collect();
    if failed.is_empty() {
        return match tried.len() {
            0 => None,
            count => Some(SEEN_BY_PEERS.ok(format!("{count} of {count} that tried"))),
        };
    }
    let addresses: BTreeSet<_> = failed
        .iter()
        .flat_map(|(_, unreached)| *unreached)
        .collect();
    let addresses: Vec<_> = addresses.into_iter().cloned().collect();
    let names: Vec<_> = failed.iter().map(|(peer, _)| label(peer)).collect();
    let text = format!(
        "no connection to this node at {} from {} of {} peers that tried: {}",
        shortened(&addresses),
        failed.len(),
        tried.len(),
        shortened(&names)
    );
    let remedy = "something on this node or before it drops what comes in: look for the rule in iptables -S INPUT and nft list \
                  ruleset (both may show the same one), in network policies, or in a cloud's security groups, and change it \
                  so that the other nodes may connect to these TCP ports";
    Some(match failed.len() * 2 > tried.len() {
        true => SEEN_BY_PEERS.fault(text, remedy),
        false => SEEN_BY_PEERS.warning(text, remedy),
    })
}

fn version(mirror: &Mirror) -> Option<Finding> {
    let versions = mirror.peers.iter();
    let versions = versions.filter_map(|peer| Some((&peer.name, peer.version.as_ref()?)));
    let versions: Vec<_> = versions.collect();
    let others = versions
        .iter()
        .filter(|(_, version)| **version != mirror.version);
    let others: Vec<_> = others
        .map(|(name, version)| format!("{name} has {version}"))
        .collect();
    match (versions.is_empty(), others.is_empty()) {
        (true, _) => None,
        (false, true) => Some(PEERS_VERSION.ok(mirror.version.clone())),
        (false, false) => Some(PEERS_VERSION.warning(
            format!("this node has {}, {}", mirror.version, shortened(&others)),
            "finish the update of all nodes",
        )),
    }
}

fn lacking(mirror: &Mirror) -> Option<Finding> {
    let peers = &mirror.peers;
    let lacking = peers
        .iter()
        .filter(|peer| lacks_often(peer) && !is_kept_out_by_clock(peer, mirror))
        .map(|peer| format!("{} ({} times)", peer.name, peer.lacking.unwrap_or_default()));
    let lacking: Vec<_> = lacking.collect();
    if lacking.is_empty() {
        let is_counted = peers.iter().any(|peer| peer.lacking.is_some());
        return is_counted.then(|| PEERS_LACKING.ok("yes"));
    }
    Some(PEERS_LACKING.warning(
        format!("lately not: {}", shortened(&lacking)),
        "their containerd removes layers (discard_unpacked_layers) or their content path is wrong: run peili doctor there",
    ))
}

fn no_peers(mirror: &Mirror) -> Finding {
    let remedy = "look for a firewall or network policy, here and on the other nodes (iptables -S, nft list ruleset): all need each \
                  other's ports 5000 and 5001. Compare --bootstrap-kind and its options with where the other nodes are; a DNS name \
                  has to resolve to their addresses. A cluster of one node is in order";
    match &mirror.bootstrap_error {
        Some(error) => PEERS_FOUND.fault(error.clone(), remedy),
        None if mirror.uptime_s < STARTING => {
            PEERS_FOUND.unknown("none yet", "look again in a minute")
        }
        None => PEERS_FOUND.warning("none", remedy),
    }
}

/// Whether this node has the network key of the others, and a clock that they accept.
fn network_key(mirror: &Mirror) -> Option<Finding> {
    let file = mirror.key_file.as_ref();
    if let Some(file) = file.filter(|file| file.ids.is_empty()) {
        return Some(NETWORK_KEY.fault(
            format!("{} is not there: this node has no peers, and accepts none", file.path),
            "write the key of the other nodes into it (in Kubernetes: look for the Secret that the chart's value peili.networkKeySecret names); \
             the mirror reads it within seconds. To share with whoever connects, leave --network-key-file out on all nodes",
        ));
    }
    if !mirror.refused_nodes.is_empty() {
        return Some(refused_nodes(mirror));
    }
    let file = file?;
    if let Some(fault) = &file.fault {
        return Some(NETWORK_KEY.warning(
            format!("{fault}; the key that it held is in force until the mirror ends"),
            format!("put the key back into {}: without it the mirror starts again without peers, or not at all", file.path),
        ));
    }
    let off = differing(mirror, PROOF_TOLERANCE);
    // If this node's clock is wrong, that is a finding about the clock.
    if !off.is_empty() && !are_most(&off, mirror) {
        let off: Vec<_> = off.iter().map(|clock| clock.name.to_owned()).collect();
        return Some(NETWORK_KEY.warning(
            format!(
                "the clocks of {} differ from this node's by more than {PROOF_TOLERANCE} s, so they and this node give each other \
                 nothing",
                shortened(&off)
            ),
            "set the clocks there by NTP (timedatectl set-ntp true, or chrony)",
        ));
    }
    Some(NETWORK_KEY.ok(described(file)))
}

/// Other nodes refused this one, or it refused them.
fn refused_nodes(mirror: &Mirror) -> Finding {
    let addresses: Vec<_> = mirror
        .refused_nodes
        .iter()
        .map(ToString::to_string)
        .collect();
    let (addresses, is_alone) = (shortened(&addresses), mirror.peers.is_empty());
    let (text, remedy) = match &mirror.key_file {
        Some(file) => (
            format!(
                "this node has no key in common with {addresses}; it has {}",
                described(file)
            ),
            format!(
                "if they are nodes of this cluster, give all nodes the same --network-key-file: on a node with another key, or none, \
                 peili doctor prints another id than {}. Nodes of another cluster, and Spegel's, are refused rightly",
                file.ids.join(", ")
            ),
        ),
        None => (
            format!("{addresses}: no connection, because this node has no network key or certificate authority in common with them"),
            "give all nodes the same --network-key-file, and --peer-tls-dir with certificates of the same authority, or take these \
             options from all nodes"
                .to_owned(),
        ),
    };
    match is_alone {
        true => NETWORK_KEY.fault(text, remedy),
        false => NETWORK_KEY.warning(text, remedy),
    }
}

/// The keys in force, by their ids.
fn described(file: &KeyFile) -> String {
    let ids = file.ids.join(", ");
    match file.ids.len() {
        1 => format!("key {ids} of {}", file.path),
        _ => format!("keys {ids} of {}", file.path),
    }
}

/// The name of a peer with its address: nodes may share a name.
fn label(peer: &Peer) -> String {
    match peer.address.as_str() {
        "" => peer.name.clone(),
        address => format!("{} at {address}", peer.name),
    }
}

/// Whether wrong announcements of a peer explain that it gets no requests for a moment.
fn lacks_often(peer: &Peer) -> bool {
    peer.lacking.is_some_and(|times| times >= LACKING_OFTEN)
}

/// Whether the network key explains that a peer is not reached.
fn is_stranger(peer: &Peer, mirror: &Mirror) -> bool {
    let address = peer.address.parse::<SocketAddr>();
    address.is_ok_and(|address| mirror.refused_nodes.contains(&address.ip()))
}

/// Whether the clocks explain that a peer refuses this node's requests.
fn is_kept_out_by_clock(peer: &Peer, mirror: &Mirror) -> bool {
    let off = differing(mirror, PROOF_TOLERANCE);
    let is_off = are_most(&off, mirror) || off.iter().any(|clock| clock.name == peer.name);
    mirror.key_file.is_some() && is_off
}
