//! The step `chart`: the chart's tests, with pinned tools that are built or downloaded below target/.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{debian, process};

/// Both major versions of Helm are in use. Pinned, so that changes in rendering or linting come with a commit.
const HELM_3: Helm = Helm {
    module: "helm.sh/helm/v3/cmd/helm",
    version: "3.22.0",
};
const HELM_4: Helm = Helm {
    module: "helm.sh/helm/v4/cmd/helm",
    version: "4.3.1",
};
/// The validator, with the schemas of each version of Kubernetes, from PyPI.
const KUBERNETES_VALIDATE: &str = "1.37.0";

struct Helm {
    module: &'static str,
    version: &'static str,
}

/// Runs the tests of the chart.
pub fn run(workspace: &Workspace) -> Result<()> {
    debian::install_chart_tools()?;
    let tools = workspace.tools();
    let helm_3 = HELM_3.install(&tools)?;
    let helm_4 = HELM_4.install(&tools)?;
    let validate = install_kubernetes_validate(&tools)?;
    // The whole workspace, as in the step `test`, so that no dependency is built with other features.
    let tests = ["test", "--locked", "--workspace", "--test=chart"];
    process::run(
        workspace
            .cargo(tests)
            .env("CHART_HELM_3", helm_3)
            .env("CHART_HELM_4", helm_4)
            .env("CHART_PROMTOOL", "promtool")
            .env("CHART_KUBERNETES_VALIDATE", validate),
    )
}

impl Helm {
    /// Builds this version unless it is there.
    fn install(&self, tools: &Path) -> Result<PathBuf> {
        let folder = tools.join(format!("helm-{}", self.version));
        let program = folder.join("helm");
        if program.exists() {
            return Ok(program);
        }
        if !process::exists("go") {
            bail!(
                "Helm {} is built with Go, and there is no go on the PATH: install it, or leave the chart's tests out: \
                 cargo xtask test --skip chart",
                self.version
            );
        }
        let module = format!("{}@v{}", self.module, self.version);
        let mut install = Command::new("go");
        // Without symbols it links in half the time.
        install.args(["install", "-ldflags=-s -w", &module]);
        process::run(install.env("GOBIN", &folder).env("CGO_ENABLED", "0"))?;
        Ok(program)
    }
}

/// Installs it into a separate environment unless it is there.
fn install_kubernetes_validate(tools: &Path) -> Result<PathBuf> {
    let folder = tools.join(format!("kubernetes-validate-{KUBERNETES_VALIDATE}"));
    let program = folder.join("bin/kubernetes-validate");
    if program.exists() {
        return Ok(program);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let venv = [OsStr::new("-m"), OsStr::new("venv"), folder.as_os_str()];
    process::run(Command::new("python3").args(venv))
        .context("the chart's tests need Python's venv: Debian's package python3-venv has it")?;
    let package = format!("kubernetes-validate=={KUBERNETES_VALIDATE}");
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        &package,
    ];
    process::run(Command::new(folder.join("bin/python")).args(pip))?;
    Ok(program)
}
