use super::*;
use std::collections::HashSet;

use super::peers::{LACKING_OFTEN, PROOF_TOLERANCE};
use crate::checks::{
    self, ASKED, CONFIG_PATH, CONTAINERD_VERSION, CONTENT_READABLE, CRI, HOSTS_ADDRESS,
    HOSTS_FIRST, HOSTS_FOLDER, HOSTS_OURS, HOSTS_READABLE, HOSTS_SHADOWED, IN_FORCE, LAYERS_KEPT,
    NETWORK_KEY, NODE_SECRET, PEERS_FOUND, PEERS_LACKING, PEERS_REACHED, PEERS_VERSION, PULL_MODE,
    SEEN_BY_PEERS,
};
use crate::facts::{
    AddressAnswer, Advice, ContainerdPaths, HostsFile, HostsFolder, KeyFile, Peer, Registry,
};
use crate::finding::{Check, Severity};
use crate::{Report, diagnose};

/// The checks of the settings of a sound containerd.
const SETTINGS: [&Check; 7] = [
    &CONTAINERD_VERSION,
    &CONFIG_PATH,
    &IN_FORCE,
    &CRI,
    &PULL_MODE,
    &LAYERS_KEPT,
    &CONTENT_READABLE,
];

/// The fingerprint of the node secret.
const SECRET: &str = "0123456789abcdef";

/// A node without faults.
fn sound() -> Facts {
    let file = HostsFile {
        path: "/etc/containerd/certs.d/_default/hosts.toml".into(),
        registry: None,
        problem: None,
        by_mirror: true,
        hosts: vec![("http://127.0.0.1:5000".into(), true)],
        hides: None,
        in_vain: None,
        secret: Some(SECRET.into()),
    };
    Facts {
        containerd: Containerd::Reached(
            SETTINGS
                .map(|check| Advice {
                    check,
                    severity: Severity::Ok,
                    text: "as it should be".into(),
                    remedy: None,
                })
                .to_vec(),
        ),
        hosts: vec![HostsFolder {
            path: "/etc/containerd/certs.d".into(),
            problem: None,
            files: vec![file],
            empty: Vec::new(),
            unread: Vec::new(),
        }],
        addresses: vec![AddressAnswer {
            url: "http://127.0.0.1:5000".into(),
            answer: Answered::ThisNode,
        }],
        silent_hosts: Vec::new(),
        now: 1_000_000,
        mirror_address: "127.0.0.1:9090".into(),
        mirror: Ok(Mirror {
            version: "1.0".into(),
            node_secret: Some(SECRET.into()),
            open_files: 65_536,
            now: 1_000_000,
            uptime_s: 1000,
            asked_ago_s: Some(3),
            looks_for_peers: true,
            peers: vec![peer_with_clock("n2", 1)],
            registries: vec![Registry {
                name: "docker.io".into(),
                ..Registry::default()
            }],
            trial: Some(Trial::CameThrough { milliseconds: 5 }),
            ..Mirror::default()
        }),
        is_installed: true,
    }
}

fn key_file() -> KeyFile {
    KeyFile {
        path: "/etc/peili/network-key".into(),
        ids: vec!["fedcba9876543210".into()],
        fault: None,
    }
}

fn peer_with_clock(name: &str, ahead: i64) -> Peer {
    Peer {
        name: name.into(),
        version: Some("1.0".into()),
        clock_ahead_s: Some(ahead),
        ..Peer::default()
    }
}

fn seen(unreached: Option<Vec<String>>) -> Peer {
    Peer {
        unreached,
        ..peer_with_clock("n2", 1)
    }
}

/// Makes a setting of containerd wrong.
fn mistaken(facts: &mut Facts, check: &Check, severity: Severity) {
    let Containerd::Reached(settings) = &mut facts.containerd else {
        panic!("it was reached");
    };
    let mut of_check = settings
        .iter_mut()
        .filter(|advice| advice.check.code == check.code);
    let advice = of_check.next().expect("it is said of a sound containerd");
    advice.severity = severity;
    advice.remedy = Some("the lines to write".into());
}

/// The faults and warnings, by check and severity.
fn problems(report: &Report) -> Vec<(String, Severity)> {
    let findings = report.findings().iter();
    let bad = findings.filter(|finding| finding.severity != Severity::Ok);
    bad.map(|finding| {
        assert!(finding.remedy.is_some(), "{finding:?} says not what to do");
        (finding.code.to_string(), finding.severity)
    })
    .collect()
}

fn mirror_of(facts: &mut Facts) -> &mut Mirror {
    facts.mirror.as_mut().expect("it answers")
}

fn file_of(facts: &mut Facts) -> &mut HostsFile {
    &mut facts.hosts[0].files[0]
}

#[test]
fn a_sound_node_has_no_problem() {
    let report = diagnose(&sound());
    assert_eq!(problems(&report), []);
    assert!(report.text(false).ends_with("All is well.\n"));
}

/// Breaks one thing of a sound node.
type Break = fn(&mut Facts);

#[test]
fn each_fault_is_named_and_nothing_else() {
    use Severity::{Fault, Unknown, Warning};
    let table: [(&Check, Severity, Break); 53] = [
        (&CONTAINERD_ANSWERS, Fault, |f| {
            f.containerd = Containerd::Unreachable {
                socket: "/run/containerd/containerd.sock".into(),
                error: "no such file".into(),
                elsewhere: Vec::new(),
            };
            mirror_of(f).trial = Some(Trial::Failed("nobody pulled".into()));
            mirror_of(f).not_ready = Some("waits for containerd".into());
        }),
        (&CONFIG_PATH, Fault, |f| {
            mistaken(f, &CONFIG_PATH, Fault);
            mirror_of(f).trial = Some(Trial::Failed("nobody asked".into()));
            mirror_of(f).asked_ago_s = None;
        }),
        (&CONTAINERD_VERSION, Warning, |f| {
            mistaken(f, &CONTAINERD_VERSION, Warning);
        }),
        (&LAYERS_KEPT, Warning, |f| {
            mistaken(f, &LAYERS_KEPT, Warning);
        }),
        (&CONTENT_READABLE, Fault, |f| {
            mistaken(f, &CONTENT_READABLE, Fault);
            mirror_of(f).not_ready = Some("containerd keeps its content elsewhere".into());
        }),
        (&HOSTS_FOLDER, Fault, |f| {
            f.hosts[0].files.clear();
            f.addresses.clear();
            mirror_of(f).trial = Some(Trial::Failed("nobody asked".into()));
        }),
        (&HOSTS_FOLDER, Fault, |f| {
            f.hosts[0].files.clear();
            f.addresses.clear();
            f.hosts[0].problem = Some("permission denied".into());
            mirror_of(f).asked_ago_s = None;
        }),
        (&HOSTS_FOLDER, Unknown, |f| {
            f.hosts[0].files.clear();
            f.addresses.clear();
            f.hosts[0].problem = Some("no such folder".into());
        }),
        (&HOSTS_READABLE, Fault, |f| {
            let mut broken = file_of(f).clone();
            broken.problem = Some("line 3: not TOML".into());
            f.hosts[0].files.push(broken);
        }),
        (&HOSTS_READABLE, Fault, |f| {
            file_of(f).problem = Some("line 3: not TOML".into());
            mirror_of(f).asked_ago_s = None;
        }),
        (&HOSTS_OURS, Fault, |f| {
            file_of(f).hosts = vec![("https://other".into(), false)];
            f.addresses.clear();
            mirror_of(f).asked_ago_s = None;
        }),
        (&HOSTS_OURS, Warning, |f| {
            let mut other = file_of(f).clone();
            other.hosts.clear();
            f.hosts[0].files.push(other);
        }),
        (&HOSTS_OURS, Fault, |f| {
            file_of(f).in_vain = Some("its capabilities have no 'pull'".into());
            mirror_of(f).asked_ago_s = None;
        }),
        (&HOSTS_OURS, Warning, |f| {
            f.hosts[0].empty = vec!["/etc/containerd/certs.d/ghcr.io".into()];
        }),
        (&HOSTS_SHADOWED, Warning, |f| {
            f.hosts[0].unread = vec![("registry-1.docker.io".into(), "docker.io".into())];
        }),
        (&NODE_SECRET, Warning, |f| file_of(f).secret = None),
        (&NODE_SECRET, Warning, |f| {
            mirror_of(f).node_secret = Some("another".into());
            mirror_of(f).asked_ago_s = None;
            mirror_of(f).uptime_s = 100_000;
        }),
        (&IN_FORCE, Warning, |f| {
            mistaken(f, &IN_FORCE, Warning);
            mirror_of(f).asked_ago_s = None;
            mirror_of(f).uptime_s = 100_000;
        }),
        (&CRI, Fault, |f| {
            mistaken(f, &CRI, Fault);
            mirror_of(f).asked_ago_s = None;
            mirror_of(f).trial = Some(Trial::Failed("no CRI".into()));
        }),
        (&HOSTS_FIRST, Warning, |f| {
            file_of(f).hosts.insert(0, ("https://other".into(), false));
        }),
        (&HOSTS_FIRST, Warning, |f| {
            file_of(f).hosts.insert(0, ("https://other".into(), false));
            f.silent_hosts = vec![("https://other".into(), "no such name".into())];
        }),
        (&HOSTS_FIRST, Fault, |f| {
            let other = "http://10.0.0.9:5000".to_owned();
            file_of(f).hosts.insert(0, (other.clone(), false));
            f.silent_hosts = vec![(other, "refused".into())];
        }),
        (&HOSTS_SHADOWED, Warning, |f| {
            file_of(f).hides = Some("/etc/containerd/certs.d/a:5000".into());
        }),
        (&HOSTS_ADDRESS, Fault, |f| {
            f.addresses[0].answer = Answered::OtherNode("n3".into());
        }),
        (&HOSTS_ADDRESS, Fault, |f| {
            f.addresses[0].answer = Answered::Something("404 of nginx".into());
            mirror_of(f).asked_ago_s = None;
        }),
        (&HOSTS_ADDRESS, Fault, |f| {
            f.addresses[0].answer = Answered::Nothing("connection refused".into());
        }),
        (&ASKED, Warning, |f| {
            mirror_of(f).asked_ago_s = None;
            mirror_of(f).uptime_s = 100_000;
        }),
        (&ASKED, Unknown, |f| mirror_of(f).asked_ago_s = None),
        (&MIRROR_ANSWERS, Fault, |f| {
            f.mirror = Err("connection refused".into());
            f.addresses[0].answer = Answered::Nothing("connection refused".into());
        }),
        (&MIRROR_READY, Fault, |f| {
            mirror_of(f).not_ready = Some("the store cannot be written".into());
        }),
        (&DESCRIPTORS, Warning, |f| mirror_of(f).open_files = 1024),
        (&CLOCK, Warning, |f| mirror_of(f).now -= 3600),
        (&CLOCK, Warning, |f| {
            mirror_of(f).peers = vec![
                peer_with_clock("n2", 3600),
                peer_with_clock("n3", 3601),
                peer_with_clock("n4", 0),
            ];
        }),
        (&CLOCK, Warning, |f| {
            mirror_of(f).peers = vec![peer_with_clock("n2", -61)];
        }),
        (&PEERS_FOUND, Fault, |f| {
            mirror_of(f).peers.clear();
            mirror_of(f).bootstrap_error = Some("peili-bootstrap does not resolve".into());
        }),
        (&PEERS_FOUND, Warning, |f| mirror_of(f).peers.clear()),
        (&PEERS_FOUND, Unknown, |f| {
            mirror_of(f).looks_for_peers = false;
        }),
        (&PEERS_REACHED, Warning, |f| {
            let peer = mirror_of(f).peers[0].clone();
            mirror_of(f).peers.push(peer);
            mirror_of(f).peers[1].error = Some("no answer".into());
        }),
        (&PEERS_VERSION, Warning, |f| {
            mirror_of(f).peers[0].version = Some("0.9".into());
        }),
        (&PEERS_LACKING, Warning, |f| {
            mirror_of(f).peers[0].lacking = Some(LACKING_OFTEN);
            mirror_of(f).peers[0].error = Some("it does not have what it announced".into());
        }),
        (&SEEN_BY_PEERS, Warning, |f| {
            let unreached = [vec!["10.0.0.1:5001".to_owned()], Vec::new(), Vec::new()];
            mirror_of(f).peers = unreached.map(|unreached| seen(Some(unreached))).to_vec();
        }),
        (&SEEN_BY_PEERS, Fault, |f| {
            let unreached = [Some(vec!["10.0.0.1:5000".to_owned()]), None];
            mirror_of(f).peers = unreached.map(seen).to_vec();
        }),
        (&PEERS_REACHED, Fault, |f| {
            mirror_of(f).peers[0].error = Some("no answer".into());
        }),
        (&NETWORK_KEY, Fault, |f| {
            mirror_of(f).key_file = Some(KeyFile {
                ids: Vec::new(),
                ..key_file()
            });
            mirror_of(f).refused_nodes = vec![[10, 0, 0, 2].into()];
            mirror_of(f).peers.clear();
        }),
        (&NETWORK_KEY, Fault, |f| {
            mirror_of(f).key_file = Some(key_file());
            mirror_of(f).refused_nodes = vec![[10, 0, 0, 2].into()];
            mirror_of(f).peers.clear();
            mirror_of(f).bootstrap_error = Some("a peer refused the connection".into());
        }),
        (&NETWORK_KEY, Fault, |f| {
            mirror_of(f).refused_nodes = vec![[10, 0, 0, 2].into()];
            mirror_of(f).peers.clear();
            mirror_of(f).bootstrap_error = Some("a peer refused the connection".into());
        }),
        (&NETWORK_KEY, Warning, |f| {
            mirror_of(f).key_file = Some(key_file());
            mirror_of(f).refused_nodes = vec![[10, 0, 0, 2].into()];
            let mut stranger = mirror_of(f).peers[0].clone();
            stranger.address = "10.0.0.2:5000".into();
            stranger.error = Some("it does not answer".into());
            mirror_of(f).peers.push(stranger);
        }),
        (&NETWORK_KEY, Warning, |f| {
            mirror_of(f).key_file = Some(KeyFile {
                fault: Some("/key is not there any more".into()),
                ..key_file()
            });
        }),
        (&NETWORK_KEY, Warning, |f| {
            mirror_of(f).key_file = Some(key_file());
            mirror_of(f).peers.push(peer_with_clock("n3", 1));
            mirror_of(f).peers.push(Peer {
                lacking: Some(LACKING_OFTEN),
                ..peer_with_clock("n4", PROOF_TOLERANCE as i64 + 1)
            });
        }),
        (&CLOCK, Warning, |f| {
            mirror_of(f).key_file = Some(key_file());
            mirror_of(f).peers[0].clock_ahead_s = Some(3600);
            mirror_of(f).peers[0].lacking = Some(LACKING_OFTEN);
        }),
        (&UPSTREAM_REACHED, Warning, |f| {
            let registry = &mut mirror_of(f).registries[0];
            registry.unreachable = Some("does not resolve".into());
            registry.failing = Some("does not resolve".into());
        }),
        (&UPSTREAM_CHECKED, Warning, |f| {
            mirror_of(f).registries[0].failing = Some("it answered 429".into());
        }),
        (&TRIAL, Fault, |f| {
            mirror_of(f).trial = Some(Trial::Failed("the mirror was not asked".into()));
        }),
    ];
    // How containerd pulls is reported, but is not a fault.
    let mut broken = HashSet::from([PULL_MODE.code]);
    for (check, severity, breaks) in table {
        broken.insert(check.code);
        let mut facts = sound();
        breaks(&mut facts);
        let found = problems(&diagnose(&facts));
        assert_eq!(
            found,
            [(check.code.to_string(), severity)],
            "{}",
            check.title
        );
    }
    let whole = checks::ALL
        .iter()
        .filter(|check| !broken.contains(&check.code));
    assert_eq!(
        whole.map(|check| check.title).collect::<Vec<_>>(),
        [""; 0],
        "has no fault above"
    );
}

#[test]
fn the_clock_of_one_other_node_is_not_this_ones_fault() {
    let mut facts = sound();
    let peers = &mut mirror_of(&mut facts).peers;
    *peers = vec![peer_with_clock("n2", 3600), peer_with_clock("n3", 2)];
    assert_eq!(problems(&diagnose(&facts)), []);
    mirror_of(&mut facts).peers[0].clock_ahead_s = None;
    assert_eq!(problems(&diagnose(&facts)), []);
}

#[test]
fn a_mirror_that_cannot_take_its_port_is_told_from_one_that_was_not_started() {
    let mut facts = sound();
    facts.mirror = Err("connection refused".into());
    for (answer, told) in [
        (Answered::Nothing("refused".into()), "systemctl start peili"),
        (
            Answered::Something("404".into()),
            "ss -ltnp 'sport = :5000'",
        ),
        (Answered::OtherNode("n1".into()), "--metrics-endpoint"),
    ] {
        facts.addresses[0].answer = answer;
        let report = diagnose(&facts);
        assert_eq!(
            problems(&report),
            [("PEILI-M001".to_owned(), Severity::Fault)]
        );
        assert!(report.text(false).contains(told), "{}", report.text(false));
    }
}

/// Only the mirror knows where containerd is on such a host.
#[test]
fn a_silent_mirror_is_the_only_fault_where_containerd_is_elsewhere() {
    let mut facts = sound();
    facts.mirror = Err("connection refused".into());
    facts.containerd = Containerd::Unknown {
        socket: "/run/containerd/containerd.sock".into(),
    };
    let report = diagnose(&facts);
    let faults = report
        .findings()
        .iter()
        .filter(|f| f.severity == Severity::Fault);
    let faults: Vec<_> = faults.map(|f| f.code.to_string()).collect();
    assert_eq!(faults, ["PEILI-M001"]);
}

#[test]
fn a_mirror_at_another_port_is_told_of_the_right_one() {
    let mut facts = sound();
    file_of(&mut facts).hosts = vec![("http://127.0.0.1:5001".into(), false)];
    facts.addresses.clear();
    let text = diagnose(&facts).text(false);
    let told = "hosts.toml (it has http://127.0.0.1:5001, and the mirror listens at port 5000)";
    assert!(text.contains(told), "{text}");
}

#[test]
fn another_containerd_on_the_host_is_pointed_at() {
    let mut facts = sound();
    let elsewhere = ContainerdPaths {
        socket: "/run/k3s/containerd/containerd.sock".into(),
        config: "/k3s/config.toml".into(),
        registry_config: "/k3s/certs.d".into(),
        ..ContainerdPaths::default()
    };
    facts.containerd = Containerd::Unreachable {
        socket: "/run/containerd/containerd.sock".into(),
        error: "no such file".into(),
        elsewhere: vec![elsewhere],
    };
    let text = diagnose(&facts).text(false);
    let options = "--containerd-sock /run/k3s/containerd/containerd.sock --containerd-config /k3s/config.toml \
                   --containerd-registry-config-path /k3s/certs.d\n";
    assert!(text.contains(options), "{text}");
}

#[test]
fn a_node_with_the_key_says_which() {
    let mut facts = sound();
    mirror_of(&mut facts).key_file = Some(key_file());
    let report = diagnose(&facts);
    assert_eq!(problems(&report), []);
    let told = "network key: key fedcba9876543210 of /etc/peili/network-key";
    assert!(report.text(false).contains(told), "{}", report.text(false));
    // Without a key, the clock is no reason why a peer lacks what it announces.
    let peers = &mut mirror_of(&mut facts).peers;
    *peers = [("n2", 3600), ("n3", 1)]
        .map(|(name, ahead)| peer_with_clock(name, ahead))
        .to_vec();
    mirror_of(&mut facts).key_file = None;
    mirror_of(&mut facts).peers[0].lacking = Some(LACKING_OFTEN);
    let found = problems(&diagnose(&facts));
    assert_eq!(found, [("PEILI-P004".to_owned(), Severity::Warning)]);
}

/// Machines that were copied share a name.
#[test]
fn a_peer_that_is_not_reached_is_named_with_its_address() {
    let mut facts = sound();
    let peer = &mut mirror_of(&mut facts).peers[0];
    (peer.address, peer.error) = ("10.0.0.2:5000".into(), Some("timed out".into()));
    let text = diagnose(&facts).text(false);
    assert!(text.contains("n2 at 10.0.0.2:5000: timed out"), "{text}");
}

#[test]
fn peers_that_differ_or_lack_are_warned_of() {
    let mut facts = sound();
    let peers = &mut mirror_of(&mut facts).peers;
    for n in 3..8 {
        peers.push(Peer {
            name: format!("n{n}"),
            version: Some("0.9".into()),
            lacking: Some(n),
            ..Peer::default()
        });
    }
    let report = diagnose(&facts);
    let codes: Vec<_> = problems(&report)
        .into_iter()
        .map(|(code, _)| code)
        .collect();
    assert_eq!(codes, ["PEILI-P003", "PEILI-P004"]);
    assert!(
        report.text(false).contains("and 2 more"),
        "{}",
        report.text(false)
    );
}

#[test]
fn before_the_installation_only_containerd_is_looked_at() {
    let mut facts = sound();
    facts.is_installed = false;
    facts.mirror = Err("connection refused".into());
    facts.hosts[0].files.clear();
    facts.addresses.clear();
    assert_eq!(problems(&diagnose(&facts)), []);
}

#[test]
fn a_host_without_containerd_is_not_told_of_it() {
    let facts = Facts {
        containerd: Containerd::None,
        hosts: Vec::new(),
        addresses: Vec::new(),
        ..sound()
    };
    assert_eq!(problems(&diagnose(&facts)), []);
}

#[test]
fn the_command_to_run_is_that_of_this_node() {
    let mut facts = sound();
    facts.hosts[0].files.clear();
    facts.addresses.clear();
    let command = |facts: &Facts| {
        let text = diagnose(facts).text(false);
        let command = text
            .lines()
            .find_map(|line| line.split_once("peili configuration"));
        command.expect("a command").1.to_owned()
    };
    mirror_of(&mut facts).node_secret = None;
    assert_eq!(command(&facts), " --mirror-targets http://127.0.0.1:5000");
    mirror_of(&mut facts).registry_ip = "::1".parse().ok();
    assert_eq!(command(&facts), " --mirror-targets http://[::1]:5000");
    mirror_of(&mut facts).registry_ip = None;
    mirror_of(&mut facts).mirrored_registries =
        vec!["http://10.0.0.9:5000".into(), "https://quay.io".into()];
    assert_eq!(
        command(&facts),
        " --mirror-targets http://127.0.0.1:5000 --mirrored-registries http://10.0.0.9:5000,https://quay.io",
        "it would remove the others"
    );
    mirror_of(&mut facts).mirrored_registries.clear();
    facts.hosts[0].path = "/etc/rancher/certs.d".into();
    mirror_of(&mut facts).registry_port = 30020;
    mirror_of(&mut facts).node_secret = Some(SECRET.into());
    assert_eq!(
        command(&facts),
        " --mirror-targets http://127.0.0.1:30020 --containerd-registry-config-path /etc/rancher/certs.d \
         --node-secret-file FILE, with the file that the mirror has"
    );
}
