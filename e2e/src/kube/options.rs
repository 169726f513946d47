//! The options of `cargo xtask kube` for the tests, in environment variables.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The options of a run.
pub struct Options {
    /// The folder of the Kubernetes commands.
    pub programs: PathBuf,
    /// Folders of containerd's programs, one for each node.
    pub runtimes: Vec<PathBuf>,
    /// Peili's image: an OCI archive.
    pub image: PathBuf,
    /// The repository's root, with the charts below it.
    pub workspace: PathBuf,
    /// Spegel's chart and image, for upgrades from it.
    pub spegel: Option<Spegel>,
}

/// Another mirror's chart and image.
pub struct Spegel {
    /// The folder of the chart.
    pub chart: PathBuf,
    /// The image as an OCI archive.
    pub image: PathBuf,
}

impl Options {
    /// Reads the variables.
    pub fn from_environment() -> Result<Options> {
        let runtimes = std::env::split_paths(&required("PEILI_KUBE_CONTAINERDS")?).collect();
        let spegel = optional("PEILI_KUBE_SPEGEL_CHART")
            .zip(optional("PEILI_KUBE_SPEGEL_IMAGE"))
            .map(|(chart, image)| Spegel { chart, image });
        Ok(Options {
            programs: required("PEILI_KUBE_BIN")?,
            runtimes,
            image: required("PEILI_KUBE_IMAGE")?,
            workspace: required("PEILI_KUBE_WORKSPACE")?,
            spegel,
        })
    }
}

fn required(variable: &str) -> Result<PathBuf> {
    optional(variable).with_context(|| format!("{variable} is not set: run cargo xtask kube"))
}

fn optional(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}
