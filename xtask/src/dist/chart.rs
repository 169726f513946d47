//! The chart's archive, as from `helm package`, but reproducible.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use ignore::WalkBuilder;

use super::archive::Archive;
use super::release::Release;

/// The chart's folder in the workspace.
const FOLDER: &str = "charts/peili";

/// An archive for `helm install`.
pub struct Chart {
    pub file_name: String,
    pub archive: Vec<u8>,
}

/// Packs the chart without the files in its `.helmignore`.
///
/// # Errors
/// The chart is not of this release: its `version` or `appVersion` differs.
pub fn write(root: &Path, release: &Release) -> Result<Chart> {
    let folder = root.join(FOLDER);
    let description = folder.join("Chart.yaml");
    let description = fs::read_to_string(&description)
        .with_context(|| format!("cannot read {FOLDER}/Chart.yaml"))?;
    let expected = [
        ("version", release.version.clone()),
        ("appVersion", release.tag()),
    ];
    for (key, expected) in expected {
        let value = scalar(&description, key)?;
        if value != expected {
            bail!(
                "{FOLDER}/Chart.yaml has {key} {value}; set it to {expected}, as this release is"
            );
        }
    }
    let mut archive = Archive::new(release.time);
    let name = scalar(&description, "name")?;
    add_folder(&mut archive, &folder, name)?;
    Ok(Chart {
        file_name: format!("{name}-{}.tgz", release.version),
        archive: archive.tar_gz()?,
    })
}

/// Adds the files of a folder below `name`.
fn add_folder(archive: &mut Archive, folder: &Path, name: &str) -> Result<()> {
    let files = WalkBuilder::new(folder)
        .standard_filters(false)
        .add_custom_ignore_filename(".helmignore")
        .build();
    for file in files {
        let file = file?;
        if !file.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let path = file.path();
        let below = path.strip_prefix(folder)?.display();
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let executable = fs::metadata(path)?.permissions().mode() & 0o100 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        archive.add(format!("{name}/{below}"), mode, content);
    }
    Ok(())
}

/// The value of a top-level key of a Chart.yaml, which is a plain or quoted scalar.
fn scalar<'y>(yaml: &'y str, key: &str) -> Result<&'y str> {
    yaml.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.split(" #").next().unwrap_or(value))
        .map(|value| value.trim().trim_matches(['"', '\'']))
        .filter(|value| !value.is_empty())
        .ok_or_else(|| anyhow!("{FOLDER}/Chart.yaml has no {key}"))
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;

    fn release(version: &str) -> Release {
        Release {
            version: version.into(),
            description: String::new(),
            revision: None,
            time: 0,
        }
    }

    fn chart(root: &Path) {
        let files = [
            (
                "Chart.yaml",
                "apiVersion: v2\nname: peili\nversion: 1.2.3\nappVersion: \"v1.2.3\" # of the image\n",
            ),
            (".helmignore", "*.orig\n"),
            ("values.yaml", "{}\n"),
            ("values.yaml.orig", "{}\n"),
            ("templates/_names.tpl", ""),
        ];
        for (path, content) in files {
            let path = root.join(FOLDER).join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, content).expect("written");
        }
    }

    #[test]
    fn the_archive_has_all_that_is_not_ignored() {
        let root = tempfile::tempdir().expect("a folder");
        chart(root.path());
        let chart = write(root.path(), &release("1.2.3")).expect("packed");
        assert_eq!(chart.file_name, "peili-1.2.3.tgz");
        let mut archive = tar::Archive::new(GzDecoder::new(chart.archive.as_slice()));
        let entries = archive.entries().expect("entries");
        let paths: Vec<_> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .path()
                    .expect("a path")
                    .display()
                    .to_string()
            })
            .collect();
        assert_eq!(
            paths,
            [
                "peili/.helmignore",
                "peili/Chart.yaml",
                "peili/templates/_names.tpl",
                "peili/values.yaml"
            ]
        );
    }

    #[test]
    fn a_chart_of_another_version_is_refused() {
        let root = tempfile::tempdir().expect("a folder");
        chart(root.path());
        let error = write(root.path(), &release("1.3.0"))
            .err()
            .expect("refused");
        let text = error.to_string();
        assert!(text.contains("version 1.2.3; set it to 1.3.0"), "{text}");
    }
}
