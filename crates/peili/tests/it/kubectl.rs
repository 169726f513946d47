//! Commands that access a cluster through the user's kubectl, with a fake one.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A cluster of two nodes; the mirror of the second has a fault.
const KUBECTL: &str = r#"#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
*"get pods"*) echo '{"items": [
    {"metadata": {"name": "peili-b"}, "spec": {"nodeName": "node-2"}},
    {"metadata": {"name": "peili-a"}, "spec": {"nodeName": "node-1"}},
    {"metadata": {"name": "peili-c"}, "spec": {}}]}' ;;
*"exec peili-b"*status*) echo '{"finished": [{"image": "quay.io/a/b", "peers": 900, "upstream": 0, "local": 0}]}' ;;
*"exec peili-a"*) echo '{"findings": [{"code": "PEILI-C001", "severity": "ok", "text": "it answers"}]}' ;;
*"exec peili-b"*) echo '{"findings": [{"code": "PEILI-C003", "severity": "fault", "text": "no config_path", "remedy": "write it"}]}'
    exit 1 ;;
*"get pod "*) echo '{"status": {"containerStatuses": [{"imageID": "sha256:1"}]}}' ;;
*port-forward*) echo forwarding; exit 7 ;;
esac
"#;

fn with_kubectl(arguments: &[&str]) -> (Output, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let (program, calls) = (folder.path().join("kubectl"), folder.path().join("calls"));
    std::fs::write(&program, KUBECTL).expect("written");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("executable");
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let mut command = peili();
    command
        .env("PATH", path)
        .env("CALLS", &calls)
        .args(arguments);
    let output = command.output().expect("it starts");
    (output, std::fs::read_to_string(calls).unwrap_or_default())
}

#[test]
fn the_doctor_of_a_cluster_names_the_node_at_fault() {
    let (output, calls) = with_kubectl(&["doctor", "--cluster", "--namespace=mirrors"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    let wanted =
        "√ node-1 (peili-a)\n× node-2 (peili-b)\n  × no config_path [PEILI-C003]\n      write it\n";
    assert_eq!(shown, wanted);
    assert!(text(&output.stderr).contains("on 1 of 2 nodes"));
    assert!(
        calls
            .lines()
            .all(|call| call.starts_with("--namespace mirrors ")),
        "{calls}"
    );
    let (output, _) = with_kubectl(&["doctor", "--cluster", "--output=json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["nodes"][1]["findings"][0]["code"], "PEILI-C003");
}

#[test]
fn the_page_of_a_node_is_forwarded() {
    let (output, calls) = with_kubectl(&["ui", "--node=node-2", "--port=8000"]);
    assert!(calls.contains("port-forward peili-b 8000:9090"), "{calls}");
    assert!(text(&output.stdout).contains("http://127.0.0.1:8000/"));
    assert!(text(&output.stderr).contains("kubectl port-forward ended"));
    let (output, _) = with_kubectl(&["ui", "--node=node-9"]);
    assert!(text(&output.stderr).contains("there are node-1, node-2"));
}

#[test]
fn a_trial_pulls_on_two_nodes_and_removes_its_pods() {
    let (output, calls) = with_kubectl(&["doctor", "--trial", "--image=quay.io/a/b:1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("√ node-2 got 900 B from nodes"),
        "{}",
        text(&output.stdout)
    );
    for (place, node) in [("first", "node-1"), ("second", "node-2")] {
        let run =
            format!("run peili-trial-{place} --image=quay.io/a/b:1 --image-pull-policy=Always");
        let at = calls.find(&run).expect(&run);
        assert!(
            calls[at..]
                .lines()
                .next()
                .is_some_and(|call| call.contains(node)),
            "{calls}"
        );
        assert!(
            calls.contains(&format!("delete pod peili-trial-{place}")),
            "{calls}"
        );
    }
    let (output, calls) = with_kubectl(&["doctor", "--trial", "--image=alpine"]);
    assert_eq!((output.status.code(), &*calls), (Some(2), ""));
}
