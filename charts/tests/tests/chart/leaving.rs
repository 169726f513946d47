//! Leaving: the hooks that put the nodes back when the release is uninstalled, and `helm test`.

use anyhow::Result;
use chart_tests::{Objects, Render};
use serde_json::json;

fn render(values: &str) -> Result<Objects> {
    Render::default().values(values).objects()
}

#[test]
fn the_hooks_run_where_the_mirrors_ran() -> Result<()> {
    let objects = render(
        "{nodeSelector: {canary: 'yes'}, imagePullSecrets: [{name: pull}], priorityClassName: high, \
         tolerations: [{key: gpu, operator: Exists}], resources: {limits: {memory: 99Mi}}, \
         affinity: {nodeAffinity: {}}}",
    )?;
    let mirror = objects.mirror()?.pod().clone();
    let cleanup = objects.get("DaemonSet", "-cleanup")?.pod();
    for key in [
        "nodeSelector",
        "imagePullSecrets",
        "priorityClassName",
        "tolerations",
        "affinity",
    ] {
        assert_eq!(cleanup[key], mirror[key], "{key}");
    }
    let wait = objects.get("Pod", "-cleanup-wait")?.pod();
    for key in ["nodeSelector", "imagePullSecrets", "priorityClassName"] {
        assert_eq!(wait[key], mirror[key], "{key}");
    }
    for (pod, name) in [(cleanup, "cleanup"), (wait, "cleanup-wait")] {
        let limits = &pod["containers"][0]["resources"]["limits"];
        assert_eq!(limits, &json!({"memory": "99Mi"}), "{name}");
    }
    Ok(())
}

/// A pod that tolerates everything may be put on a node that is down, and then never ends.
#[test]
fn pods_that_run_once_keep_off_nodes_that_are_down() -> Result<()> {
    let never = |key: &str| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Equal", "value": "never", "effect": "NoExecute"});
    let expected = json!([
        {"key": "CriticalAddonsOnly", "operator": "Exists"},
        {"operator": "Exists", "effect": "NoSchedule"},
        never("not-ready"),
        never("unreachable"),
    ]);
    let objects = Render::default().objects()?;
    for name in ["-cleanup-wait", "-test"] {
        assert_eq!(
            objects.get("Pod", name)?.pod()["tolerations"],
            expected,
            "{name}"
        );
    }
    let all = render("tolerations: [{operator: Exists}]")?;
    let tolerations = &all.get("Pod", "-test")?.pod()["tolerations"];
    assert_eq!(
        tolerations[0],
        json!({"operator": "Exists", "effect": "NoSchedule"})
    );
    Ok(())
}

#[test]
fn the_uninstall_waits_for_a_limited_time() -> Result<()> {
    for (timeout, seconds) in [("5m", 300), ("90s", 90), ("1h", 3600)] {
        let objects = render(&format!("{{peili: {{cleanup: {{timeout: {timeout}}}}}}}"))?;
        let wait = objects.get("Pod", "-cleanup-wait")?;
        assert_eq!(wait.at("/spec/activeDeadlineSeconds"), seconds);
        assert_eq!(wait.at("/spec/restartPolicy"), "Never");
        let policy = "/metadata/annotations/helm.sh~1hook-output-log-policy";
        assert_eq!(wait.at(policy), "hook-failed");
    }
    Ok(())
}

#[test]
fn without_clean_up_no_hook_is_rendered() -> Result<()> {
    let hooks = |objects: &Objects| {
        let names = objects.names();
        names
            .iter()
            .filter(|name| name.contains("-cleanup"))
            .count()
    };
    assert_eq!(hooks(&render("{}")?), 3);
    assert_eq!(hooks(&render("{peili: {cleanup: {enabled: false}}}")?), 0);
    assert_eq!(hooks(&render("{peili: {containerdMirrorAdd: false}}")?), 0);
    Ok(())
}

#[test]
fn the_hooks_reach_each_other() -> Result<()> {
    let objects = render("{service: {cleanup: {port: 8765}}, clusterDomain: example.org.}")?;
    let service = objects.get("Service", "-cleanup")?;
    let pods = objects.get("DaemonSet", "-cleanup")?;
    assert_eq!(
        service.at("/spec/selector"),
        pods.at("/spec/selector/matchLabels")
    );
    assert_eq!(service.at("/spec/publishNotReadyAddresses"), true);
    assert!(pods.arguments("cleanup")?.contains(&"--addr=:8765"));
    let wait = objects.get("Pod", "-cleanup-wait")?;
    let endpoint = "--probe-endpoint=mirror-peili-cleanup.mirrors.svc.example.org.:8765";
    assert!(wait.arguments("cleanup-wait")?.contains(&endpoint));
    // The mirror's services and its network policy do not take the clean-up's pods for mirrors.
    let policy = render("{networkPolicy: {enabled: true}}")?;
    let mirrors = policy
        .get("NetworkPolicy", "")?
        .at("/spec/podSelector/matchLabels")
        .clone();
    assert_eq!(&mirrors, policy.mirror()?.at("/spec/selector/matchLabels"));
    assert_ne!(&mirrors, pods.at("/spec/selector/matchLabels"));
    Ok(())
}

#[test]
fn helm_test_pulls_our_own_image_and_asks_the_mirrors() -> Result<()> {
    let objects = render("{service: {metrics: {port: 9191}}}")?;
    let test = objects.get("Pod", "-test")?;
    let container = test.container("pull-test")?;
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(
        container["image"],
        objects.mirror()?.container("registry")?["image"]
    );
    let arguments = test.arguments("pull-test")?;
    assert_eq!(
        arguments,
        [
            "pull-test",
            "--metrics-endpoint=mirror-peili-bootstrap.mirrors.svc.cluster.local.:9191",
            "--node-name=$(NODE_NAME)",
        ]
    );
    Ok(())
}

#[test]
fn the_network_policy_opens_what_is_needed() -> Result<()> {
    let objects = render("{networkPolicy: {enabled: true, nodeCIDRs: [192.0.2.0/24]}}")?;
    let mirrors = objects.mirror()?.at("/spec/selector/matchLabels").clone();
    let peers = json!({"podSelector": {"matchLabels": mirrors}});
    let test = objects.get("Pod", "-test")?.at("/metadata/labels");
    let test = json!({"podSelector": {"matchLabels": {
        "app.kubernetes.io/component": "test",
        "app.kubernetes.io/name": test["app.kubernetes.io/name"],
        "app.kubernetes.io/instance": test["app.kubernetes.io/instance"],
    }}});
    let port = |name: &str| json!([{"port": name, "protocol": "TCP"}]);
    let expected = json!([
        {"from": [peers], "ports": port("router-tcp")},
        {"from": [test, {"namespaceSelector": {}}], "ports": port("metrics")},
        {"from": [peers, {"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": port("registry")},
    ]);
    assert_eq!(
        objects.get("NetworkPolicy", "")?.at("/spec/ingress"),
        &expected
    );
    let open = render("{networkPolicy: {enabled: true}}")?;
    let registry = open.get("NetworkPolicy", "")?.at("/spec/ingress/2").clone();
    assert_eq!(registry, json!({"ports": port("registry")}));
    Ok(())
}
