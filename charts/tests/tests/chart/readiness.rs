//! Node readiness: the pods have no rights unless it is on, and then only those that it needs.

use anyhow::{Context as _, Result};
use chart_tests::Render;
use serde_json::json;

const RIGHTS: [&str; 6] = [
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

fn mode(mode: &str) -> Render {
    Render::default().values(&format!("{{peili: {{nodeReadiness: {{mode: {mode}}}}}}}"))
}

#[test]
fn without_it_there_are_no_rights_and_no_token() -> Result<()> {
    // Unquoted, YAML takes off for false.
    for render in [Render::default(), mode("off"), mode("'off'")] {
        let objects = render.objects()?;
        for kind in RIGHTS {
            assert_eq!(objects.all(kind).count(), 0, "{kind}");
        }
        let mirror = objects.mirror()?;
        assert_eq!(mirror.pod()["automountServiceAccountToken"], false);
        assert!(
            !mirror
                .arguments("registry")?
                .iter()
                .any(|a| a.contains("node-readiness"))
        );
    }
    Ok(())
}

#[test]
fn no_hook_has_a_token() -> Result<()> {
    let objects = mode("taint").objects()?;
    for (kind, name) in [
        ("DaemonSet", "-cleanup"),
        ("Pod", "-cleanup-wait"),
        ("Pod", "-test"),
    ] {
        let pod = objects.get(kind, name)?.pod();
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
    }
    Ok(())
}

#[test]
fn the_rights_are_those_that_the_mirror_uses() -> Result<()> {
    let events = json!({"apiGroups": [""], "resources": ["events"], "verbs": ["create"]});
    let nodes = |verbs: &[&str]| json!({"apiGroups": [""], "resources": ["nodes"], "verbs": verbs});
    let status = json!({"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]});
    for (name, rules) in [
        ("taint", json!([nodes(&["get", "patch"]), events])),
        ("condition", json!([nodes(&["get"]), status, events])),
    ] {
        let objects = mode(name).objects()?;
        assert_eq!(
            objects.get("ClusterRole", "")?.at("/rules"),
            &rules,
            "{name}"
        );
        let subject = objects.get("ClusterRoleBinding", "")?.at("/subjects");
        assert_eq!(
            subject,
            &json!([{"kind": "ServiceAccount", "name": "mirror-peili", "namespace": "mirrors"}])
        );
        assert_eq!(
            objects.mirror()?.pod()["automountServiceAccountToken"],
            true
        );
    }
    Ok(())
}

#[test]
fn the_admission_policy_closes_on_failure_and_covers_both_resources() -> Result<()> {
    for name in ["taint", "condition"] {
        let objects = mode(name).objects()?;
        let policy = objects.get("ValidatingAdmissionPolicy", "")?;
        assert_eq!(policy.at("/spec/failurePolicy"), "Fail");
        let rule = policy.at("/spec/matchConstraints/resourceRules/0");
        assert_eq!(rule["resources"], json!(["nodes", "nodes/status"]));
        assert_eq!(rule["operations"], json!(["CREATE", "UPDATE", "DELETE"]));
        let binding = objects.get("ValidatingAdmissionPolicyBinding", "")?;
        assert_eq!(binding.at("/spec/validationActions"), &json!(["Deny"]));
        assert_eq!(binding.at("/spec/policyName"), policy.at("/metadata/name"));
        let account = policy.at("/spec/matchConditions/0/expression").as_str();
        let account = account.context("no match condition")?;
        assert!(
            account.contains("\"system:serviceaccount:mirrors:mirror-peili\""),
            "{account}"
        );
        let text = policy.at("/spec").to_string();
        assert!(
            text.contains("authentication.kubernetes.io/node-name"),
            "{text}"
        );
    }
    Ok(())
}

#[test]
fn the_taints_key_reaches_mirror_policy_and_toleration() -> Result<()> {
    let values = "{tolerations: [], peili: {nodeReadiness: {mode: taint, taint: example.org/wait, timeout: 90s}}}";
    let objects = Render::default().values(values).objects()?;
    let mirror = objects.mirror()?;
    let arguments = mirror.arguments("registry")?;
    for argument in [
        "--node-readiness=taint",
        "--node-readiness-taint=example.org/wait",
        "--node-readiness-timeout=90s",
    ] {
        assert!(arguments.contains(&argument), "{argument} in {arguments:?}");
    }
    let toleration = json!([{"key": "example.org/wait", "operator": "Exists"}]);
    assert_eq!(mirror.pod()["tolerations"], toleration);
    let policy = objects.get("ValidatingAdmissionPolicy", "")?.0.to_string();
    assert!(
        policy.contains(r#"t.key != \"example.org/wait\""#),
        "{policy}"
    );
    assert!(!policy.contains("mirror-not-ready"), "{policy}");
    Ok(())
}
