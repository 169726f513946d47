//! The alerts, by promtool: they are well-formed, and fire when they should.

use anyhow::Result;
use chart_tests::{Render, fixture, promtool};
use serde_json::json;

/// The rules as a file of Prometheus.
fn rules() -> Result<String> {
    let objects = Render::default()
        .values("{prometheusRule: {enabled: true}}")
        .objects()?;
    let groups = objects
        .get("PrometheusRule", "")?
        .at("/spec/groups")
        .clone();
    Ok(json!({ "groups": groups }).to_string())
}

#[test]
fn promtool_finds_no_fault() -> Result<()> {
    let said = promtool(
        &["check", "rules", "rules.yaml"],
        &[("rules.yaml", rules()?)],
    )?;
    assert!(said.contains("20 rules found"), "{said}");
    Ok(())
}

#[test]
fn alerts_fire_when_they_should_and_only_then() -> Result<()> {
    let files = [
        ("rules.yaml", rules()?),
        ("test.yaml", fixture("rules-test.yaml")?),
    ];
    promtool(&["test", "rules", "test.yaml"], &files)?;
    Ok(())
}

#[test]
fn objectives_are_the_users() -> Result<()> {
    let values = "{prometheusRule: {enabled: true, hitRatioObjective: 0.9, firstByteObjective: 0.95, waitObjective: 0.9}}";
    let objects = Render::default().values(values).objects()?;
    let text = objects.get("PrometheusRule", "")?.0.to_string();
    for threshold in [
        "peili:upstream_bytes:ratio_rate6h > 0.1",
        "peili:slow_first_byte:ratio_rate1h > 0.72",
        "peili:long_wait:ratio_rate6h > 0.6",
    ] {
        assert!(text.contains(threshold), "{threshold} is not in {text}");
    }
    Ok(())
}
