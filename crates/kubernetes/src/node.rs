//! A node object, as far as readiness reads it, and the patches that change it.

use serde::Deserialize;
use serde_json::{Value, json};

/// The type of the node condition.
pub(crate) const CONDITION: &str = "peili.dev/MirrorReady";

/// A node object. Unused fields are left out.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Node {
    pub metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub uid: String,
    pub resource_version: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Spec {
    #[serde(default)]
    taints: Vec<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<StoredCondition>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredCondition {
    r#type: String,
    #[serde(flatten)]
    content: Condition,
    last_transition_time: Option<String>,
}

/// The content of the condition.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Condition {
    pub status: String,
    /// The reason, for programs.
    #[serde(default)]
    pub reason: String,
    /// The reason, for people.
    #[serde(default)]
    pub message: String,
}

/// A change to the node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Patch {
    /// A JSON patch (RFC 6902) of the node.
    Taints(Value),
    /// A strategic merge patch of the node's status.
    Condition(Value),
}

impl Condition {
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

impl Node {
    /// Whether the node has a taint with this key.
    pub fn is_tainted(&self, key: &str) -> bool {
        self.spec.taints.iter().any(|taint| has_key(taint, key))
    }

    pub fn condition(&self) -> Option<&Condition> {
        self.stored_condition().map(|stored| &stored.content)
    }

    fn stored_condition(&self) -> Option<&StoredCondition> {
        self.status
            .conditions
            .iter()
            .find(|c| c.r#type == CONDITION)
    }

    /// Removes all taints with this key. Each one is compared whole first: if another client changes the list
    /// meanwhile, the API server refuses the patch instead of removing another taint.
    pub fn without_taint(&self, key: &str) -> Patch {
        let mut operations = Vec::new();
        // From the end, because a removal moves all later taints.
        for (index, taint) in self.spec.taints.iter().enumerate().rev() {
            if has_key(taint, key) {
                let path = format!("/spec/taints/{index}");
                operations.push(json!({ "op": "test", "path": path, "value": taint }));
                operations.push(json!({ "op": "remove", "path": path }));
            }
        }
        Patch::Taints(operations.into())
    }

    /// Sets the condition, unless the node changes meanwhile. `now`: RFC 3339.
    pub fn with_condition(&self, condition: &Condition, now: &str) -> Patch {
        let same = self
            .stored_condition()
            .filter(|s| s.content.status == condition.status);
        let since = same
            .and_then(|stored| stored.last_transition_time.as_deref())
            .unwrap_or(now);
        Patch::Condition(json!({
            "metadata": { "resourceVersion": self.metadata.resource_version },
            "status": { "conditions": [{
                "type": CONDITION,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": since,
            }] },
        }))
    }
}

fn has_key(taint: &Value, key: &str) -> bool {
    taint.get("key").and_then(Value::as_str) == Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(taints: &Value, conditions: &Value) -> Node {
        let node = json!({
            "metadata": { "name": "n", "uid": "u", "resourceVersion": "7" },
            "spec": { "podCIDR": "10.0.0.0/24", "taints": taints },
            "status": { "conditions": conditions },
        });
        serde_json::from_value(node).expect("a node")
    }

    #[test]
    fn a_bare_node_is_read() {
        let bare = json!({ "metadata": { "uid": "u", "resourceVersion": "7" } });
        let bare: Node = serde_json::from_value(bare).expect("a node");
        assert!(!bare.is_tainted("a") && bare.condition().is_none());
    }

    #[test]
    fn each_taint_with_the_key_is_tested_and_removed_from_the_end() {
        let ours = |effect| json!({ "key": "ours", "value": "1", "effect": effect });
        let other = json!({ "key": "other", "effect": "NoSchedule" });
        let node = node(
            &json!([ours("NoSchedule"), other, ours("NoExecute")]),
            &json!([]),
        );
        assert!(node.is_tainted("ours") && !node.is_tainted("our"));
        let expected = json!([
            { "op": "test", "path": "/spec/taints/2", "value": ours("NoExecute") },
            { "op": "remove", "path": "/spec/taints/2" },
            { "op": "test", "path": "/spec/taints/0", "value": ours("NoSchedule") },
            { "op": "remove", "path": "/spec/taints/0" },
        ]);
        assert_eq!(node.without_taint("ours"), Patch::Taints(expected));
    }

    #[test]
    fn the_time_of_the_last_transition_stays_while_the_status_does() {
        let stored = json!([
            { "type": "Ready", "status": "True" },
            { "type": CONDITION, "status": "False", "reason": "a", "message": "b", "lastTransitionTime": "then" },
        ]);
        let node = node(&json!([]), &stored);
        let since = |status: &str| {
            let condition = Condition {
                status: status.into(),
                reason: "c".into(),
                message: "d".into(),
            };
            match node.with_condition(&condition, "now") {
                Patch::Condition(patch) => {
                    assert_eq!(patch["metadata"]["resourceVersion"], "7");
                    let written = patch["status"]["conditions"][0].clone();
                    assert_eq!(written["lastHeartbeatTime"], "now");
                    written["lastTransitionTime"].clone()
                }
                Patch::Taints(_) => panic!("a condition was set"),
            }
        };
        assert_eq!(since("False"), "then");
        assert_eq!(since("True"), "now");
    }
}
