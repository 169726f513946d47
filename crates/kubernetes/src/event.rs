//! The Event that informs the operator about a node whose mirror did not get ready.

use serde_json::{Value, json};

use crate::node::Node;

/// The namespace of Events for objects without one, such as nodes.
pub(crate) const NAMESPACE: &str = "default";
/// The longest message that the API server accepts, in bytes.
const MAX_MESSAGE: usize = 1024;

/// A warning about a node. `now`: RFC 3339; `id` distinguishes it from other Events of the node.
pub(crate) fn warning(name: &str, node: &Node, message: &str, now: &str, id: u64) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": format!("{name}.{id:016x}"), "namespace": NAMESPACE },
        "involvedObject": { "apiVersion": "v1", "kind": "Node", "name": name, "uid": node.metadata.uid },
        "type": "Warning",
        "reason": "MirrorNotReady",
        "message": shortened(message),
        "source": { "component": "peili", "host": name },
        "reportingComponent": "peili.dev/mirror",
        "reportingInstance": name,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}

fn shortened(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let long = format!("x{}", "ä".repeat(MAX_MESSAGE));
        assert_eq!(shortened(&long).len(), MAX_MESSAGE - 1);
    }
}
