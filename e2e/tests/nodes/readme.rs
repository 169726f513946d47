//! The README's commands for hosts with containerd, exactly as written there.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{Containerd, Daemon, Generation, Host, Lab, Settings, output, peili};

use crate::LAYERS;

const README: &str = include_str!("../../../README.md");
/// The section whose first block has the commands.
const SECTION: &str = "### Three commands on a host with containerd\n";
/// The hosts in the README.
const ADDRESSES: [&str; 2] = ["10.0.0.11/24", "10.0.0.12/24"];

/// They configure containerd, run the mirror, and check whether containerd asks it.
pub async fn three_commands_work(lab: Lab) -> Result<()> {
    let [configure, mirror, check] = commands()?;
    let host = lab.add_host("node", 21)?;
    for address in ADDRESSES {
        let mut ip = host.command("ip");
        output(ip.args(["address", "add", address, "dev", "eth0"]))?;
    }
    let folder = lab.folder("node")?;
    let (generation, settings) = (Generation::V2, Settings::default());
    let log = lab.log("containerd");
    let containerd = Containerd::start(generation, &settings, &host, &folder, log).await?;
    // The upstream uses plain HTTP, which its user has configured in containerd.
    let registry = containerd.hosts().join(lab.upstream.name());
    fs::create_dir_all(&registry)?;
    let url = lab.upstream.url();
    let users = format!("server = \"{url}\"\n[host.\"{url}\"]\n");
    fs::write(registry.join("hosts.toml"), users)?;

    output(&mut on(&host, &folder, &configure)?)?;
    let mut command = on(&host, &folder, &mirror)?;
    let mut daemon = Daemon::spawn("the mirror", &mut command, &lab.log("peili"))?;
    let address = (host.address, 5000).into();
    let ready = async || Ok(host.request("GET", address, "/readyz")? == 200);
    daemon.until("the mirror to be ready", ready).await?;

    let early = output(&mut on(&host, &folder, &check)?).expect_err("nothing was pulled yet");
    let early = format!("{early:#}");
    ensure!(early.contains("has not asked its mirror"), "{early}");
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    containerd.cri.pull(&image.by_tag()).await?;
    let told = output(&mut on(&host, &folder, &check)?)?;
    ensure!(told.contains("asked its mirror"), "{told}");
    daemon.stop().await
}

/// The lines of the block, one command on each.
fn commands() -> Result<[String; 3]> {
    let (_, section) = README.split_once(SECTION).context("the section is there")?;
    let mut blocks = section.split("```\n").skip(1);
    let block = blocks.next().context("a block")?;
    let block = block.replace("\\\n", " ");
    let lines: Vec<_> = block.lines().map(ToOwned::to_owned).collect();
    lines.try_into().ok().context("three commands")
}

/// A command line on the host, with the node's containerd at the default paths. The machine's own folders are
/// unchanged.
fn on(host: &Host, folder: &Path, line: &str) -> Result<Command> {
    let binary = peili()?;
    let programs = binary.parent().context("a folder")?.display();
    let folder = folder.display();
    let overlay = |path: &str, name: &str| {
        format!(
            "mkdir -p /run/lab/{name}/upper /run/lab/{name}/work
             mount -t overlay -o lowerdir={path},upperdir=/run/lab/{name}/upper,workdir=/run/lab/{name}/work overlay {path}"
        )
    };
    let script = format!(
        "set -e
         mount -t tmpfs tmpfs /run
         {}
         {}
         mkdir -p /run/containerd /etc/containerd/certs.d /var/lib/peili
         mount --bind {folder}/certs.d /etc/containerd/certs.d
         mkdir -p {folder}/peili
         mount --bind {folder}/peili /var/lib/peili
         touch /run/containerd/containerd.sock
         mount --bind {folder}/containerd.sock /run/containerd/containerd.sock
         PATH={programs}:$PATH
         exec {line}",
        overlay("/etc", "etc"),
        overlay("/var/lib", "lib"),
    );
    let mut command = host.runtime("sh");
    command.args(["-c", &script]);
    Ok(command)
}
