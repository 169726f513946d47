//! The configurations that are rendered, validated and compared between Helm 3 and 4.

use chart_tests::{OLDEST, Render, fixture};

/// One way in which the chart is used.
pub struct Configuration {
    pub name: &'static str,
    pub render: Render,
    /// The first Kubernetes that can have it.
    pub since: &'static str,
}

/// The values of `platform` that work.
pub const PLATFORMS: [&str; 10] = [
    "kubeadm",
    "eks",
    "aks",
    "k3s",
    "rke2",
    "k0s",
    "talos",
    "bottlerocket",
    "kind",
    "minikube",
];

/// All optional objects, monitors and lists.
pub const EVERYTHING: &str = "
networkPolicy: {enabled: true, nodeCIDRs: [192.0.2.0/24, '2001:db8::/64']}
serviceMonitor: {enabled: true, relabelings: [{action: labeldrop, regex: x}]}
podMonitor: {enabled: true, metricRelabelings: [{action: labeldrop, regex: x}]}
prometheusRule: {enabled: true, labels: {release: prometheus}, alertLabels: {team: platform}}
grafanaDashboard: {enabled: true, labels: {grafana_dashboard: '1'}}
verticalPodAutoscaler: {enabled: true, force: true, maxAllowed: {memory: 1Gi}}
resourceQuota: {enabled: true}
basicAuthSecretName: mirror-auth
imagePullSecrets: [{name: pull}]
commonLabels: {team: platform}
livenessProbe: {enabled: true}
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
extraArgs: [--default-registry=docker.io]
extraEnv: [{name: HTTPS_PROXY, value: 'http://proxy.example:3128'}]
extraVolumes: [{name: more, emptyDir: {}}]
extraVolumeMounts: [{name: more, mountPath: /more}]
extraInitContainers: [{name: before, image: 'registry.example/before:1'}]
peili:
  mirroredRegistries: ['https://docker.io', 'https://quay.io']
  registryFilters: ['.*:latest$']
  additionalMirrorTargets: ['http://192.0.2.9:5000']
  networkKeySecret: peili-key
  peerTlsSecret: peili-tls
  debugWebEnabled: false
";

pub fn all() -> anyhow::Result<Vec<Configuration>> {
    let base = Render::default;
    let plain = |name, render| Configuration {
        name,
        render,
        since: OLDEST,
    };
    let readiness = |name, mode: &str| Configuration {
        name,
        render: base().values(&format!("{{peili: {{nodeReadiness: {{mode: {mode}}}}}}}")),
        since: "1.30.0",
    };
    let mut all = vec![
        plain("default", base()),
        plain("spegel-main", base().release("spegel").values(&fixture("spegel-main-values.yaml")?)),
        plain("spegel-v0.7.4", base().release("spegel").values(&fixture("spegel-v0.7.4-values.yaml")?)),
        plain("host-port", base().values("{service: {registry: {mode: hostPort}}}")),
        plain("node-port", base().values("{service: {registry: {mode: nodePort}}}")),
        plain("everything", base().values(EVERYTHING)),
        plain("grafana-operator", base().values(
            "{grafanaDashboard: {enabled: true, mode: GrafanaOperator, grafanaOperator: {folder: F, matchLabels: {a: b}}}}",
        )),
        plain("nothing-kept", base().values("{peili: {persistence: {enabled: false}, nodeSecret: {enabled: false}}}")),
        readiness("readiness-taint", "taint"),
        readiness("readiness-condition", "condition"),
    ];
    all.extend(PLATFORMS.map(|name| Configuration {
        name,
        render: base().values(&format!("platform: {name}")),
        since: if matches!(name, "k3s" | "rke2") {
            "1.29.0"
        } else {
            OLDEST
        },
    }));
    Ok(all)
}
