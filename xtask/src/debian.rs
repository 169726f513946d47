//! The requirements of the tests on the machine: root, and packages of its own Debian.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// A program that the tests start, and its package.
struct Need {
    program: &'static str,
    package: &'static str,
}

const NEEDS: [Need; 8] = [
    Need {
        program: "chromium",
        package: "chromium",
    },
    Need {
        program: "runc",
        package: "runc",
    },
    Need {
        program: "docker-registry",
        package: "docker-registry",
    },
    Need {
        program: "ip",
        package: "iproute2",
    },
    Need {
        program: "tc",
        package: "iproute2",
    },
    Need {
        program: "skopeo",
        package: "skopeo",
    },
    Need {
        program: "podman",
        package: "podman",
    },
    Need {
        program: "dpkg-deb",
        package: "dpkg",
    },
];

/// The chart tests' requirements on Debian.
const CHART_NEEDS: [Need; 2] = [
    Need {
        program: "promtool",
        package: "prometheus",
    },
    Need {
        program: "python3",
        package: "python3-venv",
    },
];

/// Fails unless this process is root: namespaces and containerd need it.
pub fn require_root() -> Result<()> {
    let me = fs::metadata("/proc/self").context("/proc cannot be read")?;
    if me.uid() != 0 {
        bail!(
            "the end-to-end tests make network namespaces and run containerd, which needs root. \
             Run them as root, or leave them out: cargo xtask test --skip e2e"
        );
    }
    Ok(())
}

/// Installs what the end-to-end tests need and is missing.
pub fn install_packages() -> Result<()> {
    install(&NEEDS)
}

/// Installs what the chart's tests need and is missing.
pub fn install_chart_tools() -> Result<()> {
    install(&CHART_NEEDS)
}

/// Installs the packages of missing programs, and names those that are not available.
fn install(needs: &[Need]) -> Result<()> {
    let mut missing: Vec<_> = missing(needs).collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.dedup();
    if !process::exists("apt-get") {
        bail!(
            "these must be installed, and there is no apt-get to do it: {}",
            missing.join(", ")
        );
    }
    process::run(Command::new("apt-get").arg("update"))?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&missing);
    process::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
        .with_context(|| format!("could not install: {}", missing.join(", ")))?;

    let missing: Vec<_> = self::missing(needs).collect();
    if !missing.is_empty() {
        bail!(
            "installed, but their programs are not on the PATH: {}",
            missing.join(", ")
        );
    }
    Ok(())
}

fn missing(needs: &[Need]) -> impl Iterator<Item = &'static str> {
    needs
        .iter()
        .filter(|need| !process::exists(need.program))
        .map(|need| need.package)
}
