//! The facts that all artifacts of a release contain: name, version, revision, time.

use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};

use crate::process;
use crate::workspace::Workspace;

/// The repository of the image, as in the chart's `image.repository`.
pub const IMAGE_REPOSITORY: &str = "ghcr.io/peili/peili";
/// The URL of the source code.
pub const SOURCE: &str = "https://github.com/peili/peili";
pub const LICENSES: &str = "Apache-2.0";
/// The environment variable with the time of archives, in seconds since 1970. See
/// <https://reproducible-builds.org/specs/source-date-epoch/>.
pub const TIME_VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// The facts about one release.
pub struct Release {
    /// The version of the package `peili`, as in `0.1.0`.
    pub version: String,
    pub description: String,
    /// The commit, with the suffix `-dirty` if the work tree differs. `None`: outside git.
    pub revision: Option<String>,
    /// The time of every file in every archive, in seconds since 1970.
    pub time: u64,
}

impl Release {
    /// Reads the workspace, its commit and the environment.
    pub fn of(workspace: &Workspace) -> Result<Release> {
        let package = package(workspace)?;
        let text = |key: &str| {
            package[key]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| anyhow!("cargo metadata names no {key} of package peili"))
        };
        Ok(Release {
            version: text("version")?,
            description: text("description")?,
            revision: revision(workspace)?,
            time: time(std::env::var(TIME_VARIABLE).ok().as_deref())?,
        })
    }

    /// The image's tag, which is the chart's `appVersion`.
    pub fn tag(&self) -> String {
        format!("v{}", self.version)
    }

    /// The name for importing the image: repository and tag.
    pub fn image_name(&self) -> String {
        format!("{IMAGE_REPOSITORY}:{}", self.tag())
    }

    /// The time in RFC 3339 form.
    pub fn created(&self) -> String {
        let time = UNIX_EPOCH + Duration::from_secs(self.time);
        humantime::format_rfc3339_seconds(time).to_string()
    }
}

fn package(workspace: &Workspace) -> Result<serde_json::Value> {
    let mut metadata = workspace.cargo(["metadata", "--format-version=1", "--no-deps"]);
    let metadata: serde_json::Value = serde_json::from_str(&process::output(&mut metadata)?)
        .context("cargo metadata did not answer with JSON")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .into_iter()
        .find(|package| package["name"] == "peili")
        .cloned()
        .ok_or_else(|| anyhow!("the workspace has no package peili"))
}

fn revision(workspace: &Workspace) -> Result<Option<String>> {
    if !workspace.root().join(".git").exists() {
        return Ok(None);
    }
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(workspace.root()).args(args);
        process::output(&mut git).context("the revision is not known")
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let changes = git(&["status", "--porcelain"])?;
    let suffix = if changes.is_empty() { "" } else { "-dirty" };
    Ok(Some(format!("{}{suffix}", commit.trim())))
}

/// The time in the environment, or else the beginning of 1970.
fn time(given: Option<&str>) -> Result<u64> {
    given.map_or(Ok(0), |text| {
        text.parse()
            .with_context(|| format!("{TIME_VARIABLE}={text:?}: not a number of seconds"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_environment() {
        assert_eq!(time(None).expect("the default"), 0);
        assert_eq!(time(Some("1700000000")).expect("a number"), 1_700_000_000);
        let error = time(Some("today")).expect_err("no number");
        assert!(error.to_string().contains("SOURCE_DATE_EPOCH=\"today\""));
    }

    #[test]
    fn the_time_is_written_as_rfc_3339() {
        let release = Release {
            version: "1.2.3".into(),
            description: String::new(),
            revision: None,
            time: 1_700_000_000,
        };
        assert_eq!(release.created(), "2023-11-14T22:13:20Z");
        assert_eq!(release.image_name(), "ghcr.io/peili/peili:v1.2.3");
    }
}
