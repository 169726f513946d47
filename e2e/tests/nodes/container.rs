//! The mirror in a container, mounted and restricted like the chart's pods.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    Containerd, Generation, Host, Image, Lab, REGISTRY_PORT, Settings, Tar, output, peili, until,
};
use serde_json::json;

use crate::LAYERS;

const CONTAINER: &str = "mirror";

/// The default capabilities of a container in containerd; the chart drops all.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// It serves its node's content, with a read-only root and without any capability, and it finds containerd again after
/// a restart, because the socket's folder is mounted and not the socket.
pub async fn restricted_mirror_serves(lab: Lab) -> Result<()> {
    let host = lab.add_host("node", 21)?;
    let (folder, data) = (lab.folder("node")?, lab.folder("data")?);
    let log = lab.log("containerd");
    let settings = Settings {
        runs_containers: true,
        ..Settings::default()
    };
    let mut node = Containerd::start(Generation::V2, &settings, &host, &folder, log).await?;
    let content = Image::generate(&lab.upstream.name(), "lab/app", "v1", &LAYERS);
    node.import(&host, &content)?;
    let image = image(&lab)?;
    node.import(&host, &image)?;

    output(&mut run(
        &node,
        &host,
        &folder,
        &data,
        &image,
        &lab.log("peili"),
    )?)?;
    let mirror = (host.address, REGISTRY_PORT).into();
    let ready = async || Ok(host.request("GET", mirror, "/readyz")? == 200);
    until("the mirror to be ready", ready).await?;
    let served = async || {
        let path = format!("{}?ns={}", content.paths()[0], content.registry);
        Ok(host.request("GET", mirror, &path)? == 200)
    };
    until("the mirror to serve an imported image", served).await?;
    ensure_restricted(&node, &host)?;

    node.restart(&host).await?;
    until("the mirror to find containerd again", ready).await?;
    until("the mirror to serve again", served).await?;
    let kill = ["tasks", "kill", "--signal", "SIGTERM", CONTAINER];
    output(node.ctr(&host)?.args(kill))?;
    let ended = async || Ok(tasks(&node, &host)?.contains("STOPPED"));
    until("the mirror to end", ended).await?;
    output(node.ctr(&host)?.args(["tasks", "delete", CONTAINER]))?;
    output(node.ctr(&host)?.args(["containers", "delete", CONTAINER])).map(drop)
}

/// The binary under test with its linked libraries: a release is static, but what cargo builds for tests is not.
fn image(lab: &Lab) -> Result<Image> {
    let binary = peili()?;
    let linked = output(Command::new("ldd").arg(&binary))?;
    let libraries = linked.lines().filter_map(|line| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(str::to_owned)
    });
    let mut layer = Tar::default().program("peili", &fs::read(&binary)?);
    for library in libraries {
        let content = fs::read(&library).with_context(|| library.clone())?;
        layer = layer.program(library.trim_start_matches('/'), &content);
    }
    let run = json!({ "Entrypoint": ["/peili"] });
    let registry = lab.upstream.name();
    Ok(Image::of_layers(
        &registry,
        "lab/peili",
        "v1",
        vec![layer],
        &run,
    ))
}

/// All parts of the node are mounted read-only, except the mirror's own data.
fn run(
    node: &Containerd,
    host: &Host,
    folder: &Path,
    data: &Path,
    image: &Image,
    log: &Path,
) -> Result<Command> {
    let mount = |path: &Path, options: &str| {
        let path = path.display();
        format!("type=bind,src={path},dst={path},options=rbind:{options}")
    };
    let mut run = node.ctr(host)?;
    run.args(["run", "--detach", "--net-host", "--read-only"]);
    for capability in CAPABILITIES {
        run.args(["--cap-drop", capability]);
    }
    run.arg("--mount").arg(mount(folder, "rslave:ro"));
    run.arg("--mount").arg(mount(data, "rw"));
    run.arg("--log-uri")
        .arg(format!("file://{}", log.display()));
    run.args([&image.by_tag(), CONTAINER, "/peili", "registry"]);
    run.args(["--bootstrap-kind=static", "--shutdown-delay=0s"]);
    run.arg(format!("--registry-addr=:{REGISTRY_PORT}"));
    for (option, path) in [
        ("--containerd-sock", node.socket().as_path()),
        ("--containerd-content-path", &node.content()),
        ("--containerd-registry-config-path", &node.hosts()),
        ("--data-dir", data),
    ] {
        run.arg(option).arg(path);
    }
    Ok(run)
}

/// Fails unless the mirror's process has no capability and cannot write to its root.
fn ensure_restricted(node: &Containerd, host: &Host) -> Result<()> {
    let listed = tasks(node, host)?;
    let of_mirror = listed.lines().find(|line| line.starts_with(CONTAINER));
    let pid = of_mirror.and_then(|line| line.split_whitespace().nth(1));
    let Some(pid) = pid else {
        bail!("no process of {CONTAINER} in:\n{listed}");
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let line = status.lines().find(|line| line.starts_with(set));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        ensure!(value == Some("0000000000000000"), "{set} is {value:?}");
    }
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(1) == Some("/"));
    let options = root
        .and_then(|line| line.split(' ').nth(3))
        .unwrap_or_default();
    ensure!(options.split(',').any(|option| option == "ro"), "{root:?}");
    Ok(())
}

fn tasks(node: &Containerd, host: &Host) -> Result<String> {
    output(node.ctr(host)?.args(["tasks", "list"]))
}
