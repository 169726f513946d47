//! Every object is valid for Kubernetes, on the oldest and on the newest version, from Helm 3 and from Helm 4.

use anyhow::{Context as _, Result};
use chart_tests::{Helm, NEWEST, Object, Render, validate};
use serde_json::Value;

use crate::configurations::{self, EVERYTHING};

#[test]
fn every_object_is_valid_on_the_oldest_and_the_newest_kubernetes() -> Result<()> {
    for (version, oldest) in [(NEWEST, false), ("1.30.0", false), ("1.26.0", true)] {
        let mut documents = String::new();
        for configuration in configurations::all()? {
            let version = if oldest { configuration.since } else { version };
            if oldest && version > "1.26.0" {
                continue;
            }
            let text = configuration.render.kubernetes(version).manifest();
            let text = text.with_context(|| format!("{} on {version}", configuration.name))?;
            documents.push_str("---\n");
            documents.push_str(&text);
        }
        let said = validate(version, &documents)?;
        // What the schemas do not know is custom, and looked at below.
        for line in said.lines().filter(|line| line.contains("WARN")) {
            let custom = [
                "ServiceMonitor",
                "PodMonitor",
                "PrometheusRule",
                "VerticalPodAutoscaler",
                "GrafanaDashboard",
            ];
            assert!(custom.iter().any(|kind| line.contains(kind)), "{line}");
        }
        let passed = said.matches(" passed for resource ").count();
        assert!(
            passed > 100,
            "only {passed} objects were validated for {version}"
        );
    }
    Ok(())
}

#[test]
fn a_field_that_kubernetes_does_not_know_is_found() {
    let object = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {trafficDistributon: PreferSameNode}}";
    let error = validate(NEWEST, object).expect_err("there is no such field");
    assert!(
        format!("{error:#}").contains("trafficDistributon"),
        "{error:#}"
    );
}

#[test]
fn helm_3_and_4_render_the_same() -> Result<()> {
    for configuration in configurations::all()? {
        let render = |helm| configuration.render.clone().helm(helm).objects();
        let (three, four) = (render(Helm::Three)?, render(Helm::Four)?);
        let sorted = |mut objects: Vec<Object>| {
            objects.sort_by_key(|object| (object.kind().to_owned(), object.name().to_owned()));
            objects
        };
        assert_eq!(sorted(three.0), sorted(four.0), "{}", configuration.name);
    }
    Ok(())
}

/// Fields of custom resources, by the definitions of the Prometheus Operator 0.80, the Grafana Operator 5 and the
/// Vertical Pod Autoscaler 1.4.
#[test]
fn custom_resources_have_the_fields_of_their_definitions() -> Result<()> {
    let endpoint = [
        "port",
        "path",
        "interval",
        "scrapeTimeout",
        "relabelings",
        "metricRelabelings",
    ];
    let rule = ["record", "alert", "expr", "for", "labels", "annotations"];
    let policy = [
        "containerName",
        "controlledResources",
        "controlledValues",
        "maxAllowed",
        "minAllowed",
    ];
    let operator = "{grafanaDashboard: {mode: GrafanaOperator, grafanaOperator: {folder: F, matchLabels: {a: b}}}}";
    let objects = Render::default()
        .values(EVERYTHING)
        .values(operator)
        .objects()?;
    let lists: [(&str, &str, &[&str], &[&str]); 4] = [
        (
            "ServiceMonitor",
            "/spec/endpoints",
            &["selector", "endpoints"],
            &endpoint,
        ),
        (
            "PodMonitor",
            "/spec/podMetricsEndpoints",
            &["selector", "podMetricsEndpoints"],
            &endpoint,
        ),
        ("PrometheusRule", "/spec/groups/1/rules", &["groups"], &rule),
        (
            "VerticalPodAutoscaler",
            "/spec/resourcePolicy/containerPolicies",
            &["targetRef", "updatePolicy", "resourcePolicy"],
            &policy,
        ),
    ];
    for (kind, list, spec, item) in lists {
        let object = objects.get(kind, "mirror-peili")?;
        keys_among(object.at("/spec"), spec);
        let items = object
            .at(list)
            .as_array()
            .with_context(|| format!("{kind} has no {list}"))?;
        assert!(!items.is_empty(), "{kind} {list}");
        items.iter().for_each(|value| keys_among(value, item));
    }
    let dashboard = objects.get("GrafanaDashboard", "-dashboard")?;
    keys_among(
        dashboard.at("/spec"),
        &[
            "allowCrossNamespaceImport",
            "resyncPeriod",
            "folder",
            "instanceSelector",
            "json",
        ],
    );
    assert_eq!(dashboard.at("/spec/instanceSelector/matchLabels/a"), "b");
    Ok(())
}

fn keys_among(object: &Value, known: &[&str]) {
    let keys: Vec<_> = object
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    assert!(!keys.is_empty(), "{object} is empty");
    let unknown: Vec<_> = keys.iter().filter(|key| !known.contains(key)).collect();
    assert!(unknown.is_empty(), "{unknown:?} in {object}");
}
