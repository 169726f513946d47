//! The dashboard and the alerts query only metrics that the mirror exports.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use chart_tests::{Render, chart, workspace};
use regex::Regex;
use serde_json::Value;

use crate::configurations::EVERYTHING;

/// Names under which the crates register metrics. A name is a text in the source, behind the prefix of its registry and
/// with its unit, if there are any.
fn exported() -> Result<BTreeSet<String>> {
    let text = Regex::new(r#""([a-z][a-z0-9_]*)""#)?;
    let prefix = Regex::new(r#"sub_registry_with_prefix\("([a-z_]+)"\)"#)?;
    let mut names = BTreeSet::new();
    for file in sources(&workspace().join("crates"))? {
        let source = std::fs::read_to_string(&file)?;
        if !source.contains("prometheus_client") {
            continue;
        }
        let found = |pattern: &Regex| -> Vec<String> {
            pattern
                .captures_iter(&source)
                .map(|found| found[1].to_owned())
                .collect()
        };
        for literal in found(&text) {
            for prefix in found(&prefix) {
                names.insert(format!("{prefix}_{literal}"));
            }
            if source.contains("Unit::Seconds") {
                names.insert(format!("{literal}_seconds"));
            }
            names.insert(literal);
        }
    }
    Ok(names)
}

fn sources(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// The metrics that a query names.
fn metrics(query: &str) -> Result<BTreeSet<String>> {
    let name = Regex::new(r"\b((?:peili|spegel|http|kubelet|container|node)_[a-z0-9_]+)\b")?;
    Ok(name
        .captures_iter(query)
        .map(|found| found[1].to_owned())
        .collect())
}

fn is_exported(metric: &str, exported: &BTreeSet<String>) -> bool {
    let ends = ["", "_info", "_total", "_bucket", "_sum", "_count"];
    ends.iter().any(|end| {
        metric
            .strip_suffix(end)
            .is_some_and(|base| exported.contains(base))
    })
}

/// Title and queries of each panel, and the queries of the variables.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let variables = dashboard["templating"]["list"]
        .as_array()
        .into_iter()
        .flatten();
    let variables = variables.filter_map(|variable| {
        let query = variable["query"]["query"].as_str()?;
        Some((text(&variable["name"]), query.to_owned()))
    });
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let panels = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(|target| (text(&panel["title"]), text(&target["expr"])))
    });
    variables.chain(panels).collect()
}

#[test]
fn every_query_of_the_dashboard_names_metrics_of_the_mirror() -> Result<()> {
    let exported = exported()?;
    let text = std::fs::read_to_string(chart().join("files/dashboard.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let queries = queries(&dashboard);
    assert!(queries.len() > 25, "only {} queries", queries.len());
    for (title, query) in queries {
        let metrics = metrics(&query)?;
        assert!(!metrics.is_empty(), "{title}: {query} names no metric");
        for metric in metrics {
            assert!(
                is_exported(&metric, &exported),
                "{title}: {metric} is exported by no crate"
            );
        }
    }
    Ok(())
}

#[test]
fn every_alert_names_metrics_of_the_mirror() -> Result<()> {
    let exported = exported()?;
    let objects = Render::default().values(EVERYTHING).objects()?;
    let groups = objects
        .get("PrometheusRule", "")?
        .at("/spec/groups")
        .clone();
    let recorded = Regex::new(r"\bpeili:[a-z0-9_:]+")?;
    let rules: Vec<&Value> = groups
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|group| group["rules"].as_array().into_iter().flatten())
        .collect();
    let records: BTreeSet<_> = rules
        .iter()
        .filter_map(|rule| rule["record"].as_str())
        .collect();
    assert!(!records.is_empty());
    for rule in &rules {
        let query = rule["expr"]
            .as_str()
            .context("a rule without an expression")?;
        for found in recorded.find_iter(query) {
            assert!(
                records.contains(found.as_str()),
                "{} is not recorded",
                found.as_str()
            );
        }
        for metric in metrics(&recorded.replace_all(query, ""))? {
            assert!(
                is_exported(&metric, &exported),
                "{query}: {metric} is exported by no crate"
            );
        }
    }
    Ok(())
}

/// The test above tells a metric that is there from one that is not.
#[test]
fn a_metric_that_is_not_there_is_found() -> Result<()> {
    let exported = exported()?;
    assert!(is_exported("peili_router_peers", &exported));
    assert!(is_exported(
        "spegel_resolve_duration_seconds_bucket",
        &exported
    ));
    for metric in [
        "peili_router_nonsense",
        "kubelet_running_pods",
        "spegel_advertised_keys",
    ] {
        assert!(!is_exported(metric, &exported), "{metric}");
    }
    Ok(())
}

/// The rules name two bounds of buckets.
#[test]
fn the_buckets_that_the_rules_name_are_there() -> Result<()> {
    let source = std::fs::read_to_string(workspace().join("crates/mirror/src/metrics.rs"))?;
    assert!(
        source.contains("exponential_buckets(0.000_5, 2.5, 14)"),
        "the buckets have changed"
    );
    let bounds: Vec<String> = (0..14)
        .map(|i| format!("{}", 0.000_5 * 2.5_f64.powi(i)))
        .collect();
    let objects = Render::default().values(EVERYTHING).objects()?;
    let rules = objects.get("PrometheusRule", "")?.0.to_string();
    let named = Regex::new(r#"le=~\\"([^"\\]+)\\""#)?;
    let patterns: BTreeSet<_> = named
        .captures_iter(&rules)
        .map(|found| found[1].to_owned())
        .collect();
    assert_eq!(patterns.len(), 2, "{patterns:?}");
    for pattern in patterns {
        let pattern = Regex::new(&format!("^{pattern}$"))?;
        let matching = bounds
            .iter()
            .filter(|bound| pattern.is_match(bound))
            .count();
        assert_eq!(matching, 1, "{pattern} among {bounds:?}");
    }
    Ok(())
}

/// Both ways of delivery carry the same dashboard.
#[test]
fn sidecar_and_operator_carry_the_file() -> Result<()> {
    let file = std::fs::read_to_string(chart().join("files/dashboard.json"))?;
    let sidecar = Render::default()
        .values("{grafanaDashboard: {enabled: true}}")
        .objects()?;
    let operator = "{grafanaDashboard: {enabled: true, mode: GrafanaOperator, grafanaOperator: {matchLabels: {a: b}}}}";
    let operator = Render::default().values(operator).objects()?;
    let carried = [
        sidecar
            .get("ConfigMap", "-dashboard")?
            .at("/data/peili.json")
            .clone(),
        operator
            .get("GrafanaDashboard", "-dashboard")?
            .at("/spec/json")
            .clone(),
    ];
    for text in carried {
        let text = text.as_str().context("no text")?;
        assert_eq!(text.trim(), file.trim());
    }
    Ok(())
}
