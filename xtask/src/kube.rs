//! `cargo xtask kube`: the chart's end-to-end tests on a real Kubernetes in namespaces.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{containerd, debian, process};

/// Kubernetes' commands and their helpers, and their sources.
const PROGRAMS: [(&str, &str); 9] = [
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    (
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("helm", "helm.sh/helm/v4/cmd/helm"),
    ("coredns", "github.com/coredns/coredns"),
];

/// Files from Debian's packages that nodes and registry need.
const PACKAGES: [(&str, &str); 7] = [
    ("/usr/bin/docker-registry", "docker-registry"),
    ("/usr/bin/skopeo", "skopeo"),
    ("/usr/bin/busybox", "busybox-static"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
];

/// What to run it with.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of Kubernetes' commands, etcd, coredns and helm, linked statically
    #[arg(long, value_name = "DIR")]
    bin: PathBuf,
    /// Peili's image as an OCI archive [default: the one that cargo xtask dist left]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Run a node with this containerd, a folder of its programs; once for each node [default: the
    /// newest of each generation that Debian has]
    #[arg(long, value_name = "DIR")]
    containerd: Vec<PathBuf>,
    /// Spegel's chart, to be upgraded from
    #[arg(long, value_name = "DIR", requires = "spegel_image")]
    spegel_chart: Option<PathBuf>,
    /// Spegel's image as an OCI archive
    #[arg(long, value_name = "FILE", requires = "spegel_chart")]
    spegel_image: Option<PathBuf>,
    /// Keep the cluster after the tests until Enter is pressed, and say how to reach it
    #[arg(long)]
    keep: bool,
    /// Run these scenarios alone
    scenarios: Vec<String>,
}

/// Checks that everything that the tests need is there, and runs them.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    debian::require_root()?;
    let bin = absolute(&args.bin)?;
    require_programs(&bin)?;
    require_packages()?;
    let runtimes = runtimes(workspace, &args.containerd)?;
    let image = match &args.image {
        Some(file) => absolute(file)?,
        None => image_of_dist(workspace)?,
    };
    let mut tests = workspace.cargo(["test", "--locked", "--package=e2e", "--test=kube", "--"]);
    tests
        .args(&args.scenarios)
        .env("PEILI_KUBE_BIN", bin)
        .env("PEILI_KUBE_CONTAINERDS", std::env::join_paths(runtimes)?)
        .env("PEILI_KUBE_IMAGE", image)
        .env("PEILI_KUBE_WORKSPACE", workspace.root());
    if args.keep {
        tests.arg("--keep");
    }
    if let (Some(chart), Some(image)) = (&args.spegel_chart, &args.spegel_image) {
        tests
            .env("PEILI_KUBE_SPEGEL_CHART", absolute(chart)?)
            .env("PEILI_KUBE_SPEGEL_IMAGE", absolute(image)?);
    }
    process::run(&mut tests)
}

/// Names every program that the folder lacks, with its Go module.
fn require_programs(bin: &Path) -> Result<()> {
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| !bin.join(program).exists())
        .map(|(program, package)| format!("\n  {program}: go build {package}"))
        .collect();
    if !missing.is_empty() {
        bail!(
            "{} lacks programs. Build them with CGO_ENABLED=0 (k8s.io/kubernetes v1.34 or newer, \
             its staging modules at the matching v0 version) and put them there:{}",
            bin.display(),
            missing.concat()
        );
    }
    Ok(())
}

fn require_packages() -> Result<()> {
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|(file, _)| !Path::new(file).exists())
        .map(|&(_, package)| package)
        .collect();
    if !missing.is_empty() {
        bail!(
            "packages are missing: apt-get install {}",
            missing.join(" ")
        );
    }
    Ok(())
}

/// The folders of containerd's programs, one for each node.
fn runtimes(workspace: &Workspace, given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if !given.is_empty() {
        return given.iter().map(|folder| absolute(folder)).collect();
    }
    for generation in containerd::GENERATIONS {
        containerd::install(generation, &workspace.e2e())?;
    }
    let folder = |name: &str| workspace.e2e().join(format!("containerd-{name}/usr/bin"));
    Ok(["2.x", "1.7", "1.6"].map(folder).to_vec())
}

fn image_of_dist(workspace: &Workspace) -> Result<PathBuf> {
    let name = format!("peili-{}-image.tar", env!("CARGO_PKG_VERSION"));
    let file = workspace.dist().join("artifacts").join(name);
    if !file.exists() {
        bail!(
            "{} is not there: run cargo xtask dist --only image, or name another with --image",
            file.display()
        );
    }
    Ok(file)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("{} is not there", path.display()))
}
