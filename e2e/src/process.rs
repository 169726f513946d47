//! Programs: those that run as long as a test needs them, and those that answer and end.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::wait;

/// A running program. It is killed, by its id, when this is dropped.
pub struct Daemon {
    name: String,
    child: Child,
}

impl Daemon {
    /// Starts the program with its output appended to `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Daemon> {
        let open = || File::options().create(true).append(true).open(log);
        let child = command
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .spawn()
            .with_context(|| format!("{name} could not be started"))?;
        Ok(Daemon {
            name: name.to_owned(),
            child,
        })
    }

    /// Waits for a condition that the program causes. Fails as soon as it has ended.
    pub async fn until(
        &mut self,
        what: &str,
        condition: impl AsyncFnMut() -> Result<bool>,
    ) -> Result<()> {
        let Daemon { name, child } = self;
        tokio::select! {
            met = wait::until(what, condition) => met,
            status = ended(child) => bail!("{name} ended by itself, {}, before: {what}", status?),
        }
    }

    /// Kills the program. It ends when it is next scheduled.
    pub fn kill(&self) -> Result<()> {
        Ok(kill_process(self.pid()?, Signal::KILL)?)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Its process id.
    pub fn pid(&self) -> Result<Pid> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        pid.context("a process id")
    }

    /// Asks the program to end and waits until it has.
    pub async fn stop(mut self) -> Result<()> {
        kill_process(self.pid()?, Signal::TERM)?;
        let what = format!("{} to end", self.name);
        wait::until(&what, async || Ok(self.child.try_wait()?.is_some())).await
    }
}

async fn ended(child: &mut Child) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        tokio::time::sleep(wait::POLL).await;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail if the program has ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Raises this process's limit of descriptors to the maximum.
pub fn raise_descriptors() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current, maximum })?)
}

/// The resident memory of a process, in bytes.
pub fn memory(pid: Pid) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kilobytes.context("no VmRSS")? << 10)
}

/// Runs a command and returns its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} could not be started"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{command:?} ended with {}: {}",
            output.status,
            errors.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
