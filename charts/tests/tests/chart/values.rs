//! Each value of Spegel's chart has the same meaning in this chart: a test sets it, and looks for its effect in the
//! rendered objects. docs/chart-values.md is written from the same rows; `CHART_WRITE_DOCS=1` writes it anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use chart_tests::{Objects, Render, chart, fixture, workspace};
use serde::Deserialize;
use serde_json::Value;

use crate::spegel;

/// A value and where it shows, as fixtures/rows-chart.yaml describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    set: Value,
    #[serde(default)]
    with: Value,
    seen: Vec<Seen>,
    #[serde(default)]
    remark: String,
}

/// Something in the rendered objects.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Seen {
    Is { at: [String; 3], is: Value },
    Has { at: [String; 3], has: Value },
    Argument { argument: [String; 2] },
    There { there: [String; 2] },
    Gone { gone: [String; 2] },
}

impl Seen {
    fn holds(&self, objects: &Objects) -> bool {
        let field = |[kind, name, pointer]: &[String; 3]| {
            let object = objects.get(kind, name);
            object.map_or(Value::Null, |object| object.at(pointer).clone())
        };
        match self {
            Seen::Is { at, is } => field(at) == *is,
            Seen::Has { at, has } => field(at).as_array().is_some_and(|list| list.contains(has)),
            Seen::Argument {
                argument: [container, text],
            } => objects
                .mirror()
                .and_then(|mirror| Ok(mirror.arguments(container)?.contains(&text.as_str())))
                .unwrap_or(false),
            Seen::There {
                there: [kind, name],
            } => objects.get(kind, name).is_ok(),
            Seen::Gone { gone: [kind, name] } => objects.get(kind, name).is_err(),
        }
    }
}

fn rows(file: &str) -> Result<Vec<Row>> {
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let text = fixture(file)?.replace("VERSION", &version);
    serde_saphyr::from_str(&text).with_context(|| file.to_owned())
}

/// The rows of all values that Spegel's chart has today.
fn todays_rows() -> Result<Vec<Row>> {
    let mut all = rows("rows-chart.yaml")?;
    all.extend(rows("rows-settings.yaml")?);
    Ok(all)
}

fn base(row: &Row) -> Render {
    let render = Render::default().api("autoscaling.k8s.io/v1");
    if row.with.is_null() {
        render
    } else {
        render.values(&row.with.to_string())
    }
}

#[test]
fn each_value_of_spegel_has_its_effect() -> Result<()> {
    for row in todays_rows()?.into_iter().chain(rows("rows-older.yaml")?) {
        // Not all that a value stands beside can be had without it.
        let before = base(&row).objects();
        let after = base(&row).set(&row.name, &row.set).objects();
        let after = after.with_context(|| format!("{}: {}", row.name, row.set))?;
        assert!(!row.seen.is_empty(), "{}", row.name);
        for (number, seen) in row.seen.iter().enumerate() {
            let already = before.as_ref().is_ok_and(|before| seen.holds(before));
            assert!(!already, "{}: sign {number} is there without it", row.name);
            assert!(
                seen.holds(&after),
                "{}: sign {number} is not there",
                row.name
            );
        }
    }
    Ok(())
}

#[test]
fn peili_and_spegel_are_one_section() -> Result<()> {
    for row in rows("rows-settings.yaml")? {
        let (_, key) = row.name.split_once('.').context("no section")?;
        let ours = base(&row)
            .set(&format!("peili.{key}"), &row.set)
            .objects()?;
        let theirs = base(&row)
            .set(&format!("spegel.{key}"), &row.set)
            .objects()?;
        assert_eq!(ours, theirs, "{key}");
    }
    Ok(())
}

#[test]
fn there_is_a_row_for_each_of_spegels_values_and_no_other() -> Result<()> {
    let rows: Vec<_> = todays_rows()?.into_iter().map(|row| row.name).collect();
    let unique: BTreeSet<_> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), unique.len(), "a row stands twice");
    let known: BTreeSet<_> = spegel::values()?
        .into_iter()
        .map(|value| value.name)
        .collect();
    assert_eq!(unique, known);
    Ok(())
}

#[test]
fn the_docs_list_them() -> Result<()> {
    let path = workspace().join("docs/chart-values.md");
    let text = docs()?;
    if std::env::var_os("CHART_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text)?;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written, text,
        "docs/chart-values.md is out of date: CHART_WRITE_DOCS=1 cargo xtask test --only chart"
    );
    Ok(())
}

/// The default of a value in this chart, as a cell of the table.
fn default_of(name: &str) -> Result<String> {
    let (file, name) = match name.strip_prefix("spegel.") {
        Some(key) => ("files/defaults.yaml", key),
        None => ("values.yaml", name),
    };
    let text = std::fs::read_to_string(chart().join(file))?;
    let values: Value = serde_saphyr::from_str(&text)?;
    let default = values.pointer(&format!("/{}", name.replace('.', "/")));
    Ok(default.map_or_else(|| "not set".into(), |default| format!("`{default}`")))
}

const INTRODUCTION: &str = "\
# Values of Spegel's chart
Peili's chart takes every value of Spegel's chart, of its main branch (b8c715a, 2026-08-21) and of its release v0.7.4,
under the same name. `peili:` and `spegel:` are two names of one section. A test sets each value (☑) and looks for its
effect in the rendered objects. The same test writes this page. `charts/peili/values.yaml` describes all values, those
that only Peili has among them.

| value | Spegel main | Spegel v0.7.4 | Peili | ☑ | remark |
|---|---|---|---|---|---|
";

const OLDER: &str = "
## Keys of older releases
| value | ☑ | becomes |
|---|---|---|
";

fn docs() -> Result<String> {
    let rows_by_name = todays_rows()?;
    let mut text = INTRODUCTION.to_owned();
    for spegel::SpegelValue {
        name,
        main,
        release,
    } in spegel::values()?
    {
        let row = rows_by_name.iter().find(|row| row.name == name);
        let remark = &row.with_context(|| format!("no row for {name}"))?.remark;
        let cell = |default: Option<String>| {
            default.map_or_else(|| "–".into(), |json| format!("`{json}`"))
        };
        let (main, release, ours) = (cell(main), cell(release), default_of(&name)?);
        writeln!(
            text,
            "| `{name}` | {main} | {release} | {ours} | ☑ | {remark} |"
        )?;
    }
    text.push_str(OLDER);
    for row in rows("rows-older.yaml")? {
        writeln!(text, "| `{}` | ☑ | {} |", row.name, row.remark)?;
    }
    Ok(text)
}
