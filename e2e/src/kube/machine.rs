//! Machines: namespaces in which services run as on a separate host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cgroups::Cgroups;
use crate::network::Host;
use crate::process::{self, Daemon};
use crate::wait;

/// PID 1 of each machine.
const SCRIPT: &str = include_str!("machine.sh");

/// The search path of programs on a machine.
const PATH: &str = "/opt/runtime:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A machine that is being set up.
pub struct Plan {
    pub host: Host,
    name: String,
    folder: PathBuf,
    logs: PathBuf,
}

/// A running machine. Fields are dropped in order: its processes before what they use.
pub struct Machine {
    _daemon: Daemon,
    cgroups: Cgroups,
    pub host: Host,
    /// PID 1 of the machine, in the host's numbering.
    init: i32,
}

impl Plan {
    /// A machine on the host, with its files in `folder` and its logs in `logs`.
    pub fn new(name: &str, host: Host, folder: PathBuf, logs: PathBuf) -> Result<Plan> {
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(&logs)?;
        Ok(Plan {
            host,
            name: name.to_owned(),
            folder,
            logs,
        })
    }

    /// Writes a file of the machine's `/etc`.
    pub fn etc(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let file = self.folder.join("etc").join(path);
        fs::create_dir_all(file.parent().context("a file lies in a folder")?)?;
        fs::write(&file, content).with_context(|| format!("{} not written", file.display()))
    }

    /// Starts the machine with its services, lines of `run NAME COMMAND...`, and waits until all of them have been
    /// started. `runtime`: the folder of containerd's programs.
    pub async fn boot(
        self,
        lab: &str,
        programs: &Path,
        runtime: Option<&Path>,
        services: &str,
    ) -> Result<Machine> {
        self.etc("peili-services", services)?;
        let script = self.folder.join("machine.sh");
        fs::write(&script, SCRIPT)?;
        let cgroups = Cgroups::make(lab, &self.name)?;
        let mut boot = Command::new("bash");
        boot.arg(&script)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/root")
            .env("NAME", &self.name)
            .env("FOLDER", &self.folder)
            .env("LOGS", &self.logs)
            .env("PROGRAMS", programs)
            .env("RUNTIME", runtime.unwrap_or(Path::new("")))
            .env("HIERARCHIES", cgroups.hierarchies())
            .env("CGROUPS", cgroups.folders());
        let log = self.logs.join("boot.log");
        let spawn = || Daemon::spawn(&self.name, &mut boot, &log);
        let mut daemon = self.host.inside(spawn)?;
        let booted = self.folder.join("var/booted");
        daemon
            .until("its services to start", async || Ok(booted.exists()))
            .await?;
        Ok(Machine {
            init: only_child(daemon.pid()?.as_raw_nonzero().get())?,
            _daemon: daemon,
            cgroups,
            host: self.host,
        })
    }
}

impl Machine {
    /// A path inside the machine, as this process can open it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// A command that runs inside the machine.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.init.to_string();
        command.args(["--target", &target, "--net", "--mount", "--pid", "--uts"]);
        command.args(["--ipc", "--cgroup", program]);
        command.env("PATH", PATH);
        command
    }

    /// Sends a signal to a service, which is restarted a second after it has ended.
    pub fn signal(&self, service: &str, signal: &str) -> Result<()> {
        let pid = fs::read_to_string(self.path(&format!("/run/{service}.pid")))?;
        process::output(self.command("kill").args(["-s", signal, pid.trim()])).map(drop)
    }

    /// Restarts a service and waits until the new process runs.
    pub async fn restart(&self, service: &str) -> Result<()> {
        let file = self.path(&format!("/run/{service}.pid"));
        let before = fs::read_to_string(&file)?;
        self.signal(service, "TERM")?;
        let restarted = async || Ok(fs::read_to_string(&file)? != before);
        wait::until(&format!("{service} to start again"), restarted).await
    }

    /// The processes inside whose program has this name and whose arguments begin with these, in the host's numbering.
    pub fn processes(&self, program: &str, arguments: &[&str]) -> Vec<i32> {
        let is_meant = |pid: &i32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split('\0');
            let name = words.next().and_then(|path| path.rsplit('/').next());
            name == Some(program) && arguments.iter().all(|word| words.next() == Some(word))
        };
        let mut pids = self.cgroups.processes();
        pids.retain(is_meant);
        pids
    }
}

fn only_child(pid: i32) -> Result<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let child = children.split_whitespace().next();
    child
        .and_then(|child| child.parse().ok())
        .with_context(|| format!("process {pid} has no child: the machine has ended"))
}
