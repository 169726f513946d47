use std::collections::BTreeMap;

use super::*;
use crate::cluster::{Flight, Member};
use crate::content::Image;
use crate::{
    Finished, Node, Object, Peer, PeerState, Pull, Source, Totals, TreeNode, TreeSource,
    TrialObject, TrialPull, TrialSource,
};

/// A node during a cold pull of six nodes.
pub fn sample() -> Status {
    let tree = [
        ("node-1", TreeSource::Registry, 31_000_000, false),
        ("node-2", TreeSource::Node(0), 30_400_000, false),
        ("node-3", TreeSource::Node(1), 30_100_000, true),
        ("node-4", TreeSource::Node(2), 29_000_000, false),
        ("node-5", TreeSource::Node(2), 28_700_000, false),
        ("node-6", TreeSource::Node(3), 12_000_000, false),
    ];
    let tree = tree.map(|(name, source, offset, is_this_node)| TreeNode {
        name: name.into(),
        source,
        offset,
        rate: 11_900_000,
        is_this_node,
    });
    let object = |digest: char, offset, source, tree: &[TreeNode]| Object {
        digest: format!("sha256:{}", digest.to_string().repeat(64)),
        size: Some(32_000_000),
        offset,
        rate: 11_900_000,
        source,
        followers: 2,
        tree: tree.to_vec(),
    };
    let peer = |n: u64| Peer {
        name: format!("node-{n}"),
        id: format!("12D3KooW{n}"),
        address: format!("10.0.0.{n}:5000"),
        version: (n != 4).then(|| "0.1.0".into()),
        state: match n {
            4 => PeerState::Legacy,
            5 => PeerState::BackOff,
            _ => PeerState::Ok,
        },
        rate: (n != 5).then_some(12_000_000 * n),
        received: n * 1_000_000_000,
        sent: (n != 6).then_some(500_000_000),
        last_error: (n == 5).then(|| ("no answer within 1 s".into(), 12)),
    };
    Status {
        node: Node {
            name: "node-3".into(),
            version: "0.1.0".into(),
            uptime_s: 273_000,
            not_ready: None,
        },
        totals: Totals {
            local: 1_000_000,
            peers: 403_000_000_000,
            upstream: 9_000_000_000,
            upstream_by_reason: BTreeMap::from([("leads".into(), 9_000_000_000)]),
            sent: 388_000_000_000,
            seconds_saved: Some(6_720),
        },
        pulls: vec![Pull {
            image: "registry.example/team/app:v2".into(),
            age_s: 4,
            objects: vec![
                object('a', 30_100_000, Source::Peer("node-2".into()), &tree),
                object('b', 4_000_000, Source::Upstream, &[]),
                object('c', 0, Source::Waiting, &[]),
            ],
        }],
        peer_count: 5,
        peers: [1, 2, 4, 5, 6].map(peer).to_vec(),
        finished: vec![Finished {
            image: "docker.io/library/<b>evil</b>:1".into(),
            ago_s: 95,
            took_ms: 11_340,
            local: 2_000,
            peers: 120_000_000,
            upstream: 8_000_000,
            reasons: BTreeMap::from([("private".into(), 2_000_000), ("leads".into(), 6_000_000)]),
        }],
        trials: vec![trial()],
        findings: vec![doctor::checks::LAYERS_KEPT.warning(
            "true: layers are deleted",
            "discard_unpacked_layers = false\nrestart",
        )],
    }
}

/// A layer from a peer, one that only the registry has, and one that broke off.
fn trial() -> TrialPull {
    let object = |digest: char, source, size| TrialObject {
        digest: format!("sha256:{}", digest.to_string().repeat(64)),
        source,
        size,
        first_byte_ms: size.map(|_| 3),
        took_ms: 1_200,
        rate: size.map(|size| size / 2),
        is_complete: size.is_some_and(|size| size > 1000),
        ..TrialObject::default()
    };
    TrialPull {
        image: "registry.example/<i>team</i>/app".into(),
        ago_s: 12,
        took_ms: 1_240,
        objects: vec![
            TrialObject {
                is_manifest: true,
                ..object('d', TrialSource::Local, Some(1_500))
            },
            object('e', TrialSource::Peer("node-2".into()), Some(32_000_000)),
            object('f', TrialSource::Peer("node-4".into()), Some(900)),
            TrialObject {
                reason: Some("private".into()),
                ..object('a', TrialSource::Upstream, None)
            },
        ],
    }
}

/// A page with one tag on each line, without the text of its style.
fn without_style(page: &str) -> String {
    page.replace(STYLE.as_str(), "").replace("><", ">\n<")
}

#[test]
fn the_page_is_as_it_was() {
    insta::assert_snapshot!(without_style(&page(&sample())));
}

#[test]
fn nothing_on_the_page_comes_from_elsewhere_or_is_run() {
    let page = page(&sample());
    assert!(!page.contains("<b>evil</b>"), "names are text");
    assert!(!page.contains(" style="), "the policy forbids it");
    for line in page.split('<') {
        let leads = |attribute: &str| line.split(attribute).nth(1).unwrap_or_default();
        for target in [leads("src=\""), leads("href=\"")] {
            let is_elsewhere = target.starts_with("http") || target.starts_with("//");
            assert!(!is_elsewhere, "{line}");
        }
    }
    let size = page.len() + SCRIPT.len();
    assert!(size < 150_000, "{size} bytes");
}

#[test]
fn what_is_wrong_comes_first_with_its_remedy() {
    let mut status = sample();
    let fault = doctor::checks::MIRROR_READY.fault("the disk is full", "make room");
    status.findings.push(fault);
    let text = summary(&status).into_string();
    assert!(
        text.contains("the disk is full") && text.contains("make room"),
        "{text}"
    );
    status.findings.clear();
    status.node.not_ready = Some("waiting for containerd".into());
    assert!(
        summary(&status)
            .into_string()
            .contains("Not ready: waiting for containerd")
    );
}

#[test]
fn an_event_is_one_line() {
    let event = event(&sample());
    assert!(!event.contains(['\n', '\r']));
    assert!(event.contains("discard_unpacked_layers = false&#10;restart"));
}

#[test]
fn programs_read_what_people_see() {
    let sample = sample();
    let json = serde_json::to_value(&sample).expect("plain data");
    assert_eq!(json["pulls"][0]["objects"][0]["source"]["node"], "node-2");
    let back: Status = serde_json::from_value(json).expect("the same");
    assert_eq!(back, sample);
}

/// A cluster of many nodes during a cold pull.
pub fn sample_cluster(count: usize) -> Cluster {
    let nodes = (0..count).map(|n| Member {
        id: format!("12D3KooW{n}"),
        name: format!("node-{n}"),
        address: format!("10.0.{}.{}:5000", n / 250, n % 250),
        version: Some("0.1.0".into()),
        is_this_node: n == 0,
        error: (n == 3).then(|| "no answer within 2 s".into()),
        uptime_s: 273_000,
        is_ready: n != 4,
        is_slow: n == 5,
        pulling: usize::from(n != 2),
        rate: 11_900_000,
        local: 1_000_000,
        peers: 40_000_000_000,
        upstream: 9_000_000,
    });
    let tree = (0..count).map(|n| TreeNode {
        name: format!("node-{n}"),
        source: match n {
            0 => TreeSource::Registry,
            n => TreeSource::Node((n - 1) / 2),
        },
        offset: 31_000_000 - n as u64 * 100_000,
        rate: 11_900_000,
        is_this_node: n == 0,
    });
    Cluster {
        count,
        flights: vec![Flight {
            image: Some("registry.example/team/app".into()),
            digest: format!("sha256:{}", "a".repeat(64)),
            size: Some(32_000_000),
            tree: tree.collect(),
        }],
        nodes: nodes.collect(),
    }
}

#[test]
fn the_cluster_is_as_it_was() {
    insta::assert_snapshot!(without_style(&cluster(&sample_cluster(6))));
}

#[test]
fn two_hundred_nodes_are_a_page_of_reasonable_size() {
    let page = cluster(&sample_cluster(200));
    assert!(page.len() + SCRIPT.len() < 150_000, "{} bytes", page.len());
    assert!(!cluster_event(&sample_cluster(200)).contains('\n'));
}

#[test]
fn what_is_searched_for_is_text() {
    let content = Content {
        query: "\"><script>alert(1)</script>".into(),
        found: 101,
        listed: vec![Image {
            name: "<i>evil</i>".into(),
            holders: Some(vec!["node-2".into()]),
            ..Image::default()
        }],
        ..Content::default()
    };
    let page = stored(&content);
    assert!(
        !page.contains("<script>alert") && !page.contains("<i>evil"),
        "{page}"
    );
    assert!(page.contains("The first 1 of 101") && page.contains("node-2"));
}
