//! Moving from Spegel: its default values install, and its objects are taken over.

use anyhow::{Context as _, Result};
use chart_tests::{Objects, Render, fixture};
use serde_json::{Value, json};

/// One of Spegel's values.
pub struct SpegelValue {
    pub name: String,
    pub main: Option<String>,
    pub release: Option<String>,
}

/// All values of Spegel's chart, with their defaults as JSON.
pub fn values() -> Result<Vec<SpegelValue>> {
    let table = fixture("spegel-values.tsv")?;
    let default = |text: &str| (text != "-").then(|| text.to_owned());
    table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let columns: Vec<_> = line.split('\t').collect();
            let [name, _, main, release] = columns[..] else {
                anyhow::bail!("not four columns: {line}");
            };
            Ok(SpegelValue {
                name: name.to_owned(),
                main: default(main),
                release: default(release),
            })
        })
        .collect()
}

#[test]
fn the_values_files_are_those_of_the_table() -> Result<()> {
    let files = [
        ("spegel-main-values.yaml", 78),
        ("spegel-v0.7.4-values.yaml", 79),
    ];
    for (file, count) in files {
        let mut expected = json!({});
        let mut counted = 0;
        for value in values()? {
            let default = if file.contains("main") {
                value.main
            } else {
                value.release
            };
            let Some(default) = default else { continue };
            let mut place = &mut expected;
            for key in value.name.split('.') {
                place = &mut place[key];
            }
            *place = serde_json::from_str(&default).with_context(|| default.clone())?;
            counted += 1;
        }
        let file_values: Value = serde_saphyr::from_str(&fixture(file)?)?;
        assert_eq!(file_values, expected, "{file}");
        assert_eq!(counted, count, "{file}");
    }
    Ok(())
}

fn in_place(file: &str) -> Result<Render> {
    Ok(Render::default().release("spegel").values(&fixture(file)?))
}

#[test]
fn both_default_values_files_install_our_image_and_notes_say_so() -> Result<()> {
    for file in ["spegel-main-values.yaml", "spegel-v0.7.4-values.yaml"] {
        // The released chart has the digest of Spegel's image in it.
        let render = in_place(file)?.values("{image: {tag: v0.7.4, digest: 'sha256:abc'}}");
        let objects = render.objects()?;
        let image = format!("ghcr.io/peili/peili:v{}", env!("CARGO_PKG_VERSION"));
        for (kind, name, container) in [
            ("DaemonSet", "peili", "registry"),
            ("DaemonSet", "peili", "configuration"),
            ("DaemonSet", "-cleanup", "cleanup"),
            ("Pod", "-cleanup-wait", "cleanup-wait"),
            ("Pod", "-test", "pull-test"),
        ] {
            assert_eq!(
                objects.get(kind, name)?.container(container)?["image"],
                image,
                "{name}"
            );
        }
        let notes = render.notes()?;
        assert!(notes.contains("The values name Spegel's image"), "{notes}");
        let arguments = objects.mirror()?.arguments("registry")?;
        assert!(
            arguments.contains(&"--mirror-resolve-timeout=20ms"),
            "{arguments:?}"
        );
        assert!(
            arguments.contains(&"--data-dir=/var/lib/spegel"),
            "{arguments:?}"
        );
    }
    Ok(())
}

/// `helm upgrade` keeps the values that a user gave, and a tag alone is of the image that it was given for.
#[test]
fn a_tag_without_a_repository_is_spegels_in_a_release_or_values_of_spegels() -> Result<()> {
    let image = |release: &str, values: &str| -> Result<String> {
        let objects = Render::default()
            .release(release)
            .values(values)
            .objects()?;
        let image = &objects.mirror()?.container("registry")?["image"];
        Ok(image.as_str().unwrap_or_default().to_owned())
    };
    let ours = format!("ghcr.io/peili/peili:v{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(image("spegel", "{image: {tag: v0.7.4}}")?, ours);
    let values = "{spegel: {logLevel: DEBUG}, image: {digest: 'sha256:abc'}}";
    assert_eq!(image("mirrors", values)?, ours);
    let tagged = "ghcr.io/peili/peili:v9";
    assert_eq!(image("mirrors", "{image: {tag: v9}}")?, tagged);
    let named = "{image: {repository: ghcr.io/peili/peili, tag: v9}}";
    assert_eq!(image("spegel", named)?, tagged);
    Ok(())
}

/// Helm creates before it deletes, a node port is claimed once, and a selector cannot be changed.
#[test]
fn an_upgrade_in_place_keeps_the_services_names_and_no_selector() -> Result<()> {
    let services = |objects: &Objects| -> Vec<String> {
        objects
            .all("Service")
            .map(|service| service.name().to_owned())
            .collect()
    };
    let taken_over = |full: &str| {
        ["", "-registry", "-bootstrap", "-cleanup"]
            .map(|end| format!("{full}{end}"))
            .to_vec()
    };
    for (release, values, full) in [
        ("spegel", "{}", "spegel"),
        ("my-spegel", "{}", "my-spegel"),
        ("mirrors", "{nameOverride: spegel}", "mirrors-spegel"),
        (
            "mirrors",
            "{fullnameOverride: registry-cache}",
            "registry-cache",
        ),
    ] {
        let objects = Render::default()
            .release(release)
            .values(values)
            .objects()?;
        let mut names = services(&objects);
        names.sort();
        let mut expected = taken_over(full);
        expected.sort();
        assert_eq!(names, expected, "{release} {values}");
        assert_eq!(objects.mirror()?.name(), format!("{full}-peili"));
        let component = "/spec/selector/matchLabels/app.kubernetes.io~1component";
        assert_eq!(objects.mirror()?.at(component), "peili");
    }
    let ours = Render::default().release("peili").objects()?;
    assert_eq!(ours.mirror()?.name(), "peili");
    Ok(())
}

/// Its default is true, and a debug page that nobody asked for is a hole.
#[test]
fn the_debug_page_is_left_alone_unless_it_is_asked_for() -> Result<()> {
    let flag = |values: &str| -> Result<bool> {
        let objects = Render::default().values(values).objects()?;
        let arguments = objects.mirror()?.arguments("registry")?;
        Ok(arguments
            .iter()
            .any(|argument| argument.starts_with("--debug-web-enabled")))
    };
    assert!(!flag("{}")?);
    assert!(flag("{spegel: {debugWebEnabled: true}}")?);
    assert!(flag("{peili: {debugWebEnabled: false}}")?);
    Ok(())
}

#[test]
fn the_same_value_under_both_names_is_no_conflict() -> Result<()> {
    let both = "{peili: {logLevel: DEBUG, persistence: {path: /a}}, spegel: {logLevel: DEBUG, persistence: {hostPath: /b}}}";
    let objects = Render::default().values(both).objects()?;
    let arguments = objects.mirror()?.arguments("registry")?;
    assert!(
        arguments.contains(&"--log-level=DEBUG") && arguments.contains(&"--data-dir=/a"),
        "{arguments:?}"
    );
    Ok(())
}
