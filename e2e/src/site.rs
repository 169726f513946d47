//! The folder on disk in which labs are built, and what earlier runs left there.
//!
//! Each run has a folder under `target/e2e/run` with a lock on it, and the names of its namespaces begin with the
//! folder's name. A folder without a held lock belongs to a run that is over.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

use crate::network::ip;
use crate::process::output;

/// The folders of this run.
pub struct Site {
    id: String,
    e2e: PathBuf,
    folder: PathBuf,
    labs: AtomicU32,
    /// Held for the lifetime of the process.
    _lock: File,
}

impl Site {
    /// The site of this process. The first call creates it and removes what dead runs left.
    pub fn get() -> Result<&'static Site> {
        static SITE: OnceLock<Result<Site, String>> = OnceLock::new();
        SITE.get_or_init(|| Site::open().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("{error}"))
    }

    fn open() -> Result<Site> {
        let target = profile_folder()?.parent().map(Path::to_owned);
        let e2e = target.context("a target folder")?.join("e2e");
        let runs = e2e.join("run");
        fs::create_dir_all(&runs)?;
        // One at a time: a folder that another process has just created is not locked yet.
        let sweeping = File::create(e2e.join("sweep.lock"))?;
        sweeping.lock()?;
        sweep(&runs)?;

        let id = format!("peili-e2e-{}", std::process::id());
        let folder = runs.join(&id);
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock()
            .with_context(|| format!("{} is in use", folder.display()))?;
        Ok(Site {
            id,
            e2e,
            folder,
            labs: AtomicU32::new(0),
            _lock: lock,
        })
    }

    /// A unique name on this machine for a new lab, and an empty folder for it.
    pub fn lab(&self) -> Result<(String, PathBuf)> {
        let number = self.labs.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(number.to_string());
        fs::create_dir_all(&folder)?;
        Ok((format!("{}-{number}", self.id), folder))
    }

    /// An empty folder for the logs of a test; they outlive the run.
    pub fn logs(&self, test: &str) -> Result<PathBuf> {
        let folder = self.e2e.join("logs").join(test);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// The folder to which a generation of containerd was unpacked.
    pub fn containerd(&self, generation: &str) -> PathBuf {
        self.e2e.join(format!("containerd-{generation}"))
    }
}

/// The folder into which cargo builds this profile: a test binary is in `deps` below it.
pub fn profile_folder() -> Result<PathBuf> {
    let binary = std::env::current_exe()?;
    binary
        .ancestors()
        .find(|folder| folder.file_name() == Some(OsStr::new("deps")))
        .and_then(Path::parent)
        .map(Path::to_owned)
        .ok_or_else(|| anyhow!("{} is not in cargo's target folder", binary.display()))
}

/// Ends and removes what earlier runs left behind.
fn sweep(runs: &Path) -> Result<()> {
    for run in fs::read_dir(runs)? {
        let run = run?;
        let over = File::options().write(true).open(run.path().join("lock"));
        if over.is_ok_and(|lock| lock.try_lock().is_err()) {
            continue;
        }
        let id = run.file_name().to_string_lossy().into_owned();
        for namespace in namespaces(&format!("{id}-"))? {
            end_processes(&namespace)?;
            ip(&format!("netns del {namespace}"))?;
        }
        unmount(&run.path())?;
        fs::remove_dir_all(run.path())
            .with_context(|| format!("{} could not be swept", run.path().display()))?;
    }
    Ok(())
}

/// Unmounts everything below a folder, the deepest first.
fn unmount(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for point in points
        .filter(|point| Path::new(point).starts_with(folder))
        .rev()
    {
        output(Command::new("umount").args(["--lazy", point]))?;
    }
    Ok(())
}

fn namespaces(prefix: &str) -> Result<Vec<String>> {
    let list = ip("netns list")?;
    let names = list
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    Ok(names
        .filter(|name| name.starts_with(prefix))
        .map(str::to_owned)
        .collect())
}

/// Kills the processes in a namespace of the tests: only tests start processes there.
fn end_processes(namespace: &str) -> Result<()> {
    for pid in ip(&format!("netns pids {namespace}"))?.lines() {
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            // It may have ended since it was listed.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    Ok(())
}
