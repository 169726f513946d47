//! The chart refuses values that cannot work: the schema refuses wrong names, a message explains all others, with the
//! reason and a remedy.

use anyhow::Result;
use chart_tests::{Helm, Render};

/// Values, the version of Kubernetes, and what the three parts of the message contain.
const REFUSED: [(&str, &str, [&str; 3]); 16] = [
    (
        "platform: gke",
        "1.37.0",
        [
            "platform: gke is not supported",
            "config_path",
            "platform kubeadm",
        ],
    ),
    (
        "platform: openshift",
        "1.37.0",
        [
            "platform: openshift is not supported",
            "CRI-O",
            "--store layout",
        ],
    ),
    (
        "platform: nomad",
        "1.37.0",
        [
            "platform: \"nomad\" is not known",
            "a platform decides",
            "aks, bottlerocket, eks, k0s, k3s, kind, kubeadm, minikube, rke2, talos",
        ],
    ),
    (
        "image: {repository: registry.example/mirror/spegel}",
        "1.37.0",
        [
            "image.repository: registry.example/mirror/spegel",
            "Peili's image",
            "ghcr.io/peili/peili:v",
        ],
    ),
    (
        "{service: {registry: {mode: hostPort}}, updateStrategy: {rollingUpdate: {maxSurge: 1}}}",
        "1.37.0",
        ["maxSurge: 1", "one port of a node", "mode: nodePort"],
    ),
    (
        "{updateStrategy: {rollingUpdate: {maxSurge: 25%}}}",
        "1.33.0",
        ["maxSurge: 25%", "one port of a node", "maxSurge: 0"],
    ),
    (
        "platform: k3s",
        "1.28.0",
        [
            "watchConfiguration needs Kubernetes 1.29, this is v1.28.0",
            "restartable",
            "watchConfiguration: false",
        ],
    ),
    (
        "{peili: {nodeReadiness: {mode: taint}}}",
        "1.29.0",
        [
            "nodeReadiness.mode: taint needs Kubernetes 1.30, this is v1.29.0",
            "ValidatingAdmissionPolicy",
            "mode: \"off\"",
        ],
    ),
    (
        "{peili: {networkKeySecret: peili-key, nodeSecret: {enabled: false}}}",
        "1.37.0",
        [
            "peili.networkKeySecret without peili.nodeSecret.enabled",
            "containerd does not have the network key",
            "peili.nodeSecret.enabled: true",
        ],
    ),
    (
        "{peili: {peerTlsSecret: peili-tls, nodeSecret: {enabled: false}}}",
        "1.37.0",
        [
            "peili.peerTlsSecret without peili.nodeSecret.enabled",
            "containerd does not have the certificate",
            "peili.nodeSecret.enabled: true",
        ],
    ),
    (
        "{peili: {logLevel: DEBUG}, spegel: {logLevel: INFO}}",
        "1.37.0",
        [
            "peili.logLevel and spegel.logLevel",
            "the same setting",
            "remove spegel.logLevel",
        ],
    ),
    (
        "{peili: {persistence: {path: /a}}, spegel: {persistence: {path: /b}}}",
        "1.37.0",
        [
            "peili.persistence.path and spegel.persistence.path",
            "the same setting",
            "remove spegel.persistence.path",
        ],
    ),
    (
        "{spegel: {registries: ['https://a'], mirroredRegistries: ['https://b']}}",
        "1.37.0",
        [
            "spegel.mirroredRegistries and its older name",
            "both mean the same",
            "keep spegel.mirroredRegistries",
        ],
    ),
    (
        "{grafanaDashboard: {enabled: true, mode: GrafanaOperator}}",
        "1.37.0",
        [
            "without grafanaDashboard.grafanaOperator.matchLabels",
            "finds no Grafana",
            "mode: Sidecar",
        ],
    ),
    (
        "terminationGracePeriodSeconds: 7",
        "1.37.0",
        [
            "terminationGracePeriodSeconds: 7",
            "5 s after SIGTERM",
            "8 or more",
        ],
    ),
    (
        "{peili: {containerdSock: containerd.sock}}",
        "1.37.0",
        [
            "\"containerd.sock\" is not an absolute path",
            "mounted from the node",
            "begins with /",
        ],
    ),
];

#[test]
fn impossible_values_are_refused_with_what_why_and_what_instead() -> Result<()> {
    for (values, kubernetes, [what, why, instead]) in REFUSED {
        for helm in [Helm::Three, Helm::Four] {
            let render = Render::default().helm(helm).kubernetes(kubernetes);
            let said = render.values(values).refusal()?;
            let lines: Vec<_> = said.lines().map(str::trim).collect();
            let why_at = lines.iter().position(|line| line.starts_with("Why: "));
            let Some(at) = why_at.filter(|at| *at > 0 && at + 1 < lines.len()) else {
                panic!("{values}: not in three parts: {said}");
            };
            assert!(
                lines[at - 1].contains(what),
                "{values}: {what} is not in {}",
                lines[at - 1]
            );
            assert!(
                lines[at].contains(why),
                "{values}: {why} is not in {}",
                lines[at]
            );
            assert!(lines[at + 1].starts_with("Instead: "), "{said}");
            assert!(
                lines[at + 1].contains(instead),
                "{values}: {instead} is not in {}",
                lines[at + 1]
            );
        }
    }
    Ok(())
}

#[test]
fn a_misspelt_value_is_refused_by_name() -> Result<()> {
    for (values, name) in [
        ("{nodeSelektor: {}}", "nodeSelektor"),
        ("{image: {repo: x}}", "repo"),
        ("{service: {registry: {nodePorts: 1}}}", "nodePorts"),
        ("{service: {registri: {}}}", "registri"),
        ("{spegel: {mirroredRegistry: []}}", "mirroredRegistry"),
        ("{peili: {nodeReadiness: {modus: taint}}}", "modus"),
        ("{peili: {cleanup: {timout: 5m}}}", "timout"),
        ("{networkPolicy: {nodeCIDR: []}}", "nodeCIDR"),
        ("{prometheusRule: {objective: 1}}", "objective"),
        (
            "{verticalPodAutoscaler: {updatePolicy: {mode: Off}}}",
            "mode",
        ),
    ] {
        for helm in [Helm::Three, Helm::Four] {
            let said = Render::default().helm(helm).values(values).refusal()?;
            assert!(
                said.contains(&format!("'{name}' not allowed")),
                "{values}: {said}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_by_name() -> Result<()> {
    for (values, name) in [
        (
            "{service: {registry: {mode: both}}}",
            "/service/registry/mode",
        ),
        (
            "{service: {registry: {nodePort: 70000}}}",
            "/service/registry/nodePort",
        ),
        (
            "{spegel: {mirrorResolveTimeout: 20}}",
            "/spegel/mirrorResolveTimeout",
        ),
        (
            "{peili: {nodeReadiness: {mode: label}}}",
            "/peili/nodeReadiness/mode",
        ),
        (
            "{prometheusRule: {hitRatioObjective: 1}}",
            "/prometheusRule/hitRatioObjective",
        ),
    ] {
        let said = Render::default().values(values).refusal()?;
        assert!(said.contains(name), "{values}: {said}");
    }
    Ok(())
}

#[test]
fn globals_of_a_parent_chart_are_taken() -> Result<()> {
    let render = Render::default().values("{global: {imageRegistry: registry.example}}");
    assert_eq!(render.objects()?, Render::default().objects()?);
    Ok(())
}
