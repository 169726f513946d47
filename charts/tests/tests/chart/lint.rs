//! The chart's own files: lint, versions, and defaults that are written down twice.

use anyhow::{Context, Result};
use chart_tests::{Helm, Render, chart};
use serde_json::{Value, json};

#[test]
fn both_helms_find_nothing_to_complain_of() -> Result<()> {
    for helm in [Helm::Three, Helm::Four] {
        let output = helm
            .command()?
            .args(["lint", "--strict", "--kube-version", chart_tests::NEWEST])
            .arg(chart())
            .output()?;
        let said = String::from_utf8(output.stdout)?;
        assert!(output.status.success(), "{helm:?}: {said}");
        assert!(!said.contains("[WARNING]"), "{helm:?}: {said}");
    }
    Ok(())
}

#[test]
fn the_charts_version_is_the_workspaces() -> Result<()> {
    let text = std::fs::read_to_string(chart().join("Chart.yaml"))?;
    let chart: Value = serde_saphyr::from_str(&text)?;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(chart["version"], version);
    assert_eq!(chart["appVersion"], format!("v{version}"));
    Ok(())
}

/// The mirror's settings have their defaults in files/defaults.yaml; values.yaml tells of them in a comment.
#[test]
fn the_defaults_that_values_yaml_tells_of_are_those_in_force() -> Result<()> {
    let values = std::fs::read_to_string(chart().join("values.yaml"))?;
    let told: String = values
        .lines()
        .skip_while(|line| *line != "# peili:")
        .take_while(|line| line.starts_with('#'))
        .map(|line| {
            format!(
                "{}\n",
                line.trim_start_matches('#').strip_prefix(' ').unwrap_or("")
            )
        })
        .collect();
    let told: Value = serde_saphyr::from_str(&told)?;
    let defaults = std::fs::read_to_string(chart().join("files/defaults.yaml"))?;
    let defaults: Value = serde_saphyr::from_str(&defaults)?;
    assert_eq!(told, json!({ "peili": defaults }));
    Ok(())
}

/// An object that differs from rendering to rendering keeps `flux diff` and Argo busy for ever.
#[test]
fn two_renderings_are_the_same_and_nothing_is_looked_up() -> Result<()> {
    let render = Render::default().values("{peili: {nodeReadiness: {mode: taint}}}");
    assert_eq!(render.manifest()?, render.manifest()?);
    let mut files = 0;
    for entry in walk(&chart().join("templates"))? {
        let text = std::fs::read_to_string(&entry)?;
        for word in ["rand", "lookup", "uuid", "genSigned", "genCA", "now "] {
            let call = format!("{{{{ {word}");
            let piped = format!("| {word}");
            let nested = format!("({word}");
            for form in [call, piped, nested] {
                assert!(!text.contains(&form), "{form} in {}", entry.display());
            }
        }
        files += 1;
    }
    assert!(files > 10, "only {files} templates were looked at");
    Ok(())
}

fn walk(folder: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(walk(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

#[test]
fn notes_name_the_next_two_commands() -> Result<()> {
    let notes = Render::default().notes()?;
    assert!(notes.contains("kubectl --namespace mirrors rollout status daemonset/mirror-peili"));
    assert!(notes.contains("helm test mirror --namespace mirrors"));
    Ok(())
}

/// Who reads values.yaml sees all that the schema takes.
#[test]
fn every_value_of_the_schema_is_described_in_values_yaml() -> Result<()> {
    let read = |file: &str| -> Result<Value> {
        let text = std::fs::read_to_string(chart().join(file))?;
        Ok(serde_saphyr::from_str(&text)?)
    };
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(
        chart().join("values.schema.json"),
    )?)?;
    let (mut values, defaults) = (read("values.yaml")?, read("files/defaults.yaml")?);
    values["peili"] = defaults;
    let mut missing = Vec::new();
    undescribed(&schema, &schema, &values, "", &mut missing);
    // The parent's, the other name of `peili`, the one without a default, and keys of older releases.
    let known = [
        ".global",
        ".peili.additionalMirrorRegistries",
        ".peili.appendMirrors",
        ".peili.debugWebEnabled",
        ".peili.registries",
        ".peili.resolveLatestTag",
        ".spegel",
    ];
    missing.sort();
    assert_eq!(missing, known);
    Ok(())
}

fn undescribed(
    root: &Value,
    schema: &Value,
    values: &Value,
    path: &str,
    missing: &mut Vec<String>,
) {
    let reference = schema["$ref"]
        .as_str()
        .and_then(|name| root.pointer(name.trim_start_matches('#')));
    let properties = reference.unwrap_or(schema)["properties"].as_object();
    for (name, property) in properties.into_iter().flatten() {
        let path = format!("{path}.{name}");
        match values.get(name) {
            Some(inner) => undescribed(root, property, inner, &path, missing),
            None => missing.push(path),
        }
    }
}
