//! How containerd reaches the mirror of its node, by host port or node port, and the consequences.

use anyhow::Result;
use chart_tests::{NEWEST, Objects, Render, SAME_NODE};
use serde_json::{Value, json};

const BEFORE: &str = "1.33.9";

/// What a rendering says about the way.
#[derive(Debug, PartialEq)]
struct PortCase {
    target: String,
    host_port: Option<u64>,
    node_port: Option<u64>,
    distribution: Option<String>,
    surge: u64,
}

fn way(objects: &Objects) -> Result<PortCase> {
    let mirror = objects.mirror()?;
    let arguments = mirror.arguments("configuration")?;
    let flag = arguments
        .iter()
        .position(|argument| *argument == "--mirror-targets");
    let service = objects.get("Service", "-registry")?;
    let number = |value: &Value| value.as_u64();
    Ok(PortCase {
        target: arguments[flag.expect("--mirror-targets") + 1].to_owned(),
        host_port: number(&mirror.container("registry")?["ports"][0]["hostPort"]),
        node_port: number(service.at("/spec/ports/0/nodePort")),
        distribution: service
            .at("/spec/trafficDistribution")
            .as_str()
            .map(str::to_owned),
        surge: number(mirror.at("/spec/updateStrategy/rollingUpdate/maxSurge")).unwrap_or(0),
    })
}

fn by_host_port(port: u64) -> PortCase {
    PortCase {
        target: format!("http://$(NODE_IP):{port}"),
        host_port: Some(port),
        node_port: None,
        distribution: None,
        surge: 0,
    }
}

fn by_node_port(port: u64) -> PortCase {
    PortCase {
        target: format!("http://$(NODE_IP):{port}"),
        host_port: None,
        node_port: Some(port),
        distribution: Some("PreferSameNode".into()),
        surge: 1,
    }
}

#[test]
fn auto_takes_the_way_that_leads_to_this_node() -> Result<()> {
    let base = Render::default;
    for kubernetes in [SAME_NODE, NEWEST, "1.34.2-gke.1", "1.35.1+k3s1"] {
        assert_eq!(
            way(&base().kubernetes(kubernetes).objects()?)?,
            by_node_port(30020),
            "{kubernetes}"
        );
    }
    assert_eq!(
        way(&base().kubernetes(BEFORE).objects()?)?,
        by_host_port(30020)
    );
    // Cilium may have taken kube-proxy's place, and does not say whether it keeps to the node.
    assert_eq!(
        way(&base().api("cilium.io/v2").objects()?)?,
        by_host_port(30020)
    );
    Ok(())
}

#[test]
fn the_users_choice_is_kept() -> Result<()> {
    let set = |values: &str| Render::default().values(values);
    let host = set("{service: {registry: {mode: hostPort, hostPort: 3020}}}");
    assert_eq!(way(&host.objects()?)?, by_host_port(3020));
    let node = set("{service: {registry: {mode: nodePort, nodePort: 31000}}}");
    assert_eq!(
        way(&node.clone().api("cilium.io/v2").objects()?)?,
        by_node_port(31000)
    );
    // There it is a node port like any other, and NOTES warn.
    let without_distribution = PortCase {
        distribution: None,
        ..by_node_port(31000)
    };
    assert_eq!(
        way(&node.kubernetes(BEFORE).objects()?)?,
        without_distribution
    );
    // A number chosen for one way serves for the other.
    let number = set("{service: {registry: {nodePort: 31000}}}");
    assert_eq!(
        way(&number.kubernetes(BEFORE).objects()?)?,
        by_host_port(31000)
    );
    Ok(())
}

/// Spegel's releases have two targets: the host port, and a node port that any node's pod may answer. The first is kept
/// as the only target, the second as a service.
#[test]
fn values_of_spegels_release_lead_through_the_host_port() -> Result<()> {
    let values = "{service: {registry: {hostPort: 30020, nodePort: 30021}}}";
    for kubernetes in [BEFORE, NEWEST] {
        let objects = Render::default()
            .kubernetes(kubernetes)
            .values(values)
            .objects()?;
        assert_eq!(
            way(&objects)?,
            PortCase {
                node_port: Some(30021),
                ..by_host_port(30020)
            }
        );
    }
    let same_node = "{service: {registry: {usePreferSameNodeTrafficDistribution: true}}}";
    let objects = Render::default()
        .values(values)
        .values(same_node)
        .objects()?;
    assert_eq!(way(&objects)?, by_node_port(30021));
    Ok(())
}

/// An API server refuses a pod with a host port beside one of its own node's.
#[test]
fn the_users_update_strategy_wins() -> Result<()> {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}});
    for kubernetes in [BEFORE, NEWEST] {
        let render = Render::default()
            .kubernetes(kubernetes)
            .set("updateStrategy", &strategy);
        assert_eq!(
            render.objects()?.mirror()?.at("/spec/updateStrategy"),
            &strategy
        );
    }
    Ok(())
}

/// That annotation would override PreferSameNode.
#[test]
fn topology_hints_never_stand_beside_prefer_same_node() -> Result<()> {
    let render =
        Render::default().values("{service: {registry: {topologyAwareHintsEnabled: true}}}");
    let pointer = "/metadata/annotations/service.kubernetes.io~1topology-mode";
    let hints = |objects: &Objects| -> Result<Value> {
        Ok(objects.get("Service", "-registry")?.at(pointer).clone())
    };
    assert_eq!(hints(&render.clone().objects()?)?, Value::Null);
    assert_eq!(hints(&render.kubernetes(BEFORE).objects()?)?, "auto");
    Ok(())
}

#[test]
fn an_ipv6_literal_stands_in_brackets() -> Result<()> {
    for literal in ["2001:db8::7", "[2001:db8::7]"] {
        let render = Render::default().set("service.registry.nodeIp", &json!(literal));
        assert_eq!(
            way(&render.objects()?)?.target,
            "http://[2001:db8::7]:30020"
        );
    }
    Ok(())
}

/// SIGKILL comes after the mirror has ended by itself.
#[test]
fn the_drain_ends_a_second_before_the_grace_period() -> Result<()> {
    for (grace, drain) in [(30, "24s"), (60, "54s"), (8, "2s")] {
        let render = Render::default().set("terminationGracePeriodSeconds", &json!(grace));
        let objects = render.objects()?;
        let mirror = objects.mirror()?;
        assert_eq!(mirror.pod()["terminationGracePeriodSeconds"], grace);
        let arguments = mirror.arguments("registry")?;
        assert!(arguments.contains(&"--shutdown-delay=5s"), "{arguments:?}");
        assert!(
            arguments.contains(&format!("--drain-timeout={drain}").as_str()),
            "{arguments:?}"
        );
    }
    Ok(())
}
