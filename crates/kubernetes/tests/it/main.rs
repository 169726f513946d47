//! Node readiness against an API server over HTTPS.

mod api_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api_server::ApiServer;
use async_trait::async_trait;
use hyper::{Method, StatusCode};
use kubernetes::{Config, Mode, NodeReadiness, Probe};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const NODE: &str = "node-1";
const TAINT: &str = "peili.dev/mirror-not-ready";
const CONDITION: &str = "peili.dev/MirrorReady";
/// The limit for a condition that a test waits for: far longer than it takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A fake mirror.
#[derive(Default)]
struct Mirror {
    waits_for: Mutex<Option<String>>,
    trial_failure: Mutex<Option<String>>,
    trials: AtomicUsize,
}

#[async_trait]
impl Probe for Mirror {
    fn waits_for(&self) -> Option<String> {
        self.waits_for.lock().clone()
    }

    async fn trial(&self) -> Result<(), String> {
        self.trials.fetch_add(1, Ordering::Relaxed);
        match self.trial_failure.lock().clone() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

struct Running {
    mirror: Arc<Mirror>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    registry: Registry,
}

fn start(server: &ApiServer, mode: Mode, timeout: Duration, mirror: Mirror) -> Running {
    let config = Config {
        node: NODE.into(),
        mode,
        taint: TAINT.into(),
        timeout,
    };
    let mut registry = Registry::default();
    let readiness = NodeReadiness::new(config, server.account(), &mut registry);
    let (mirror, shutdown) = (Arc::new(mirror), CancellationToken::new());
    let (probe, token) = (mirror.clone(), shutdown.clone());
    let task = tokio::spawn(async move { readiness.keep(&*probe, token).await });
    Running {
        mirror,
        shutdown,
        task,
        registry,
    }
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.task)
            .await
            .expect("it ends")
            .expect("no panic");
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("encoded");
        text
    }
}

fn node() -> Value {
    json!({
        "metadata": { "name": NODE, "uid": "u-1", "resourceVersion": "1", "labels": { "a": "b" } },
        "spec": { "taints": [
            { "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" },
            { "key": TAINT, "effect": "NoSchedule" },
        ] },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

fn has_taint(node: &Value, key: &str) -> bool {
    let taints = node["spec"]["taints"].as_array().expect("taints");
    taints.iter().any(|taint| taint["key"] == key)
}

fn condition(node: &Value) -> Option<Value> {
    let conditions = node["status"]["conditions"].as_array().expect("conditions");
    conditions
        .iter()
        .find(|condition| condition["type"] == CONDITION)
        .cloned()
}

/// Waits until the server's state meets this condition.
async fn until(server: &ApiServer, what: &str, holds: impl Fn(&api_server::State) -> bool) {
    let polled = async {
        while !holds(&server.state.lock()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let held = tokio::time::timeout(LIMIT, polled).await;
    assert!(
        held.is_ok(),
        "{what}, in vain; requests: {:?}",
        server.state.lock().requests
    );
}

#[tokio::test]
async fn the_taint_is_removed_and_nothing_else() {
    let server = ApiServer::start(node()).await;
    let running = start(&server, Mode::Taint, LIMIT * 10, Mirror::default());
    until(&server, "the taint is removed", |state| {
        !has_taint(&state.node, TAINT)
    })
    .await;
    assert_eq!(running.mirror.trials.load(Ordering::Relaxed), 1);
    let metrics = running.metrics();
    for line in [
        r#"trials_total{result="passed"} 1"#,
        r#"peili_node_readiness{state="ready"}"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    running.stop().await;

    let state = server.state.lock();
    let mut expected = node();
    expected["spec"]["taints"]
        .as_array_mut()
        .expect("taints")
        .remove(1);
    expected["metadata"]["resourceVersion"] = "2".into();
    assert_eq!(state.node, expected);
    let path = format!("/api/v1/nodes/{NODE}");
    assert_eq!(
        state.requests,
        [
            format!("GET {path}?resourceVersion=0"),
            format!("PATCH {path}")
        ]
    );
    assert!(state.events.is_empty());
}

#[tokio::test]
async fn the_taint_stays_while_the_mirror_is_not_ready_or_the_trial_fails() {
    let server = ApiServer::start(node()).await;
    let mirror = Mirror::default();
    *mirror.waits_for.lock() = Some("peers".into());
    *mirror.trial_failure.lock() = Some("containerd did not ask".into());
    let running = start(&server, Mode::Taint, LIMIT * 10, mirror);
    until(&server, "the node is read", |state| {
        !state.requests.is_empty()
    })
    .await;
    *running.mirror.waits_for.lock() = None;
    let failed = || running.mirror.trials.load(Ordering::Relaxed) >= 2;
    until(&server, "two trials fail", |_| failed()).await;
    assert!(has_taint(&server.state.lock().node, TAINT));
    *running.mirror.trial_failure.lock() = None;
    until(&server, "the taint is removed", |state| {
        !has_taint(&state.node, TAINT)
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn another_taint_that_comes_in_between_is_not_removed() {
    let server = ApiServer::start(node()).await;
    server.state.lock().intruder = Some(json!({ "key": "drain", "effect": "NoExecute" }));
    let running = start(&server, Mode::Taint, LIMIT * 10, Mirror::default());
    until(&server, "the taint is removed", |state| {
        !has_taint(&state.node, TAINT)
    })
    .await;
    running.stop().await;
    let state = server.state.lock();
    assert!(
        has_taint(&state.node, "drain") && has_taint(&state.node, "node.kubernetes.io/not-ready")
    );
    let exact = format!("GET /api/v1/nodes/{NODE}");
    assert!(state.requests.contains(&exact), "{:?}", state.requests);
}

#[tokio::test]
async fn requests_that_fail_are_repeated_with_the_token_of_the_day() {
    let server = ApiServer::start(node()).await;
    {
        let mut state = server.state.lock();
        state.failures = vec![(Method::GET, StatusCode::INTERNAL_SERVER_ERROR)];
        state.token = "second".into();
    }
    let running = start(&server, Mode::Taint, LIMIT * 10, Mirror::default());
    until(&server, "the old token is refused", |state| {
        state.requests.len() >= 2
    })
    .await;
    std::fs::write(server.folder.path().join("token"), "second").expect("written");
    until(&server, "the taint is removed", |state| {
        !has_taint(&state.node, TAINT)
    })
    .await;
    assert!(
        running
            .metrics()
            .contains("peili_node_readiness_api_errors_total")
    );
    running.stop().await;
}

#[tokio::test]
async fn after_the_timeout_the_taint_is_removed_with_an_event() {
    let server = ApiServer::start(node()).await;
    let mirror = Mirror::default();
    *mirror.trial_failure.lock() = Some("containerd did not ask".into());
    let running = start(&server, Mode::Taint, Duration::ZERO, mirror);
    until(&server, "an Event", |state| !state.events.is_empty()).await;
    running.stop().await;
    let state = server.state.lock();
    assert!(!has_taint(&state.node, TAINT));
    let event = &state.events[0];
    assert_eq!(event["reason"], "MirrorNotReady");
    assert_eq!(event["type"], "Warning");
    assert_eq!(
        event["involvedObject"],
        json!({ "apiVersion": "v1", "kind": "Node", "name": NODE, "uid": "u-1" })
    );
}

#[tokio::test]
async fn the_condition_is_set_and_withdrawn() {
    let server = ApiServer::start(node()).await;
    let running = start(&server, Mode::Condition, LIMIT * 10, Mirror::default());
    let is = |node: &Value, status: &str| condition(node).is_some_and(|c| c["status"] == status);
    until(&server, "the condition is true", |state| {
        is(&state.node, "True")
    })
    .await;
    {
        let mut state = server.state.lock();
        assert!(has_taint(&state.node, TAINT), "taints are the controller's");
        // The kubelet writes its own status meanwhile.
        state.bump();
        state.failures = vec![(Method::PATCH, StatusCode::CONFLICT)];
    }
    running.stop().await;
    let node = server.state.lock().node.clone();
    let stopped = condition(&node).expect("a condition");
    assert_eq!(
        (&stopped["status"], &stopped["reason"]),
        (&json!("False"), &json!("MirrorStopped"))
    );
    assert_eq!(
        node["status"]["conditions"][0],
        json!({ "type": "Ready", "status": "True" })
    );
}

#[tokio::test]
async fn a_condition_that_another_mirror_has_set_is_not_withdrawn() {
    let server = ApiServer::start(node()).await;
    let old = start(&server, Mode::Condition, LIMIT * 10, Mirror::default());
    let is_true =
        |state: &api_server::State| condition(&state.node).is_some_and(|c| c["status"] == "True");
    until(&server, "the condition is true", is_true).await;
    let said = condition(&server.state.lock().node).expect("a condition")["message"].clone();
    let new = start(&server, Mode::Condition, LIMIT * 10, Mirror::default());
    let is_other = |state: &api_server::State| {
        condition(&state.node).is_some_and(|c| c["message"] != said && c["status"] == "True")
    };
    until(&server, "the new mirror speaks for itself", is_other).await;
    old.stop().await;
    assert!(
        is_true(&server.state.lock()),
        "an update must not take the node out of service"
    );
    new.stop().await;
    assert!(!is_true(&server.state.lock()));
}
