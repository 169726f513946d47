//! The cgroups (v1) of a machine, below those of this process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::wait::POLL;

const ROOT: &str = "/sys/fs/cgroup";

/// The most levels of cgroups of a run below a hierarchy's root.
const DEPTH: usize = 6;

/// The limit for the processes of a killed machine to leave their cgroups.
const LEAVE_LIMIT: Duration = Duration::from_secs(20);

/// One cgroup in each hierarchy. They are removed when this is dropped.
pub struct Cgroups {
    folders: Vec<PathBuf>,
    hierarchies: Vec<String>,
}

impl Cgroups {
    /// Makes the cgroups `<lab>/<machine>`.
    pub fn make(lab: &str, machine: &str) -> Result<Cgroups> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let (mut folders, mut hierarchies) = (Vec::new(), Vec::new());
        // `<number>:<controllers>:<path>`; cgroup v2 has no controllers there.
        for line in own.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(hierarchy), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            if hierarchy.is_empty() {
                continue;
            }
            let base = folder_of(hierarchy).join(path.trim_start_matches('/'));
            let folder = base.join(lab).join(machine);
            fs::create_dir_all(&folder)
                .with_context(|| format!("the cgroup {} could not be made", folder.display()))?;
            if hierarchy
                .split(',')
                .any(|controller| controller == "cpuset")
            {
                inherit_cpus(&base, &[base.join(lab), folder.clone()])?;
            }
            folders.push(folder);
            hierarchies.push(hierarchy.to_owned());
        }
        if folders.is_empty() {
            bail!("this machine has no cgroup v1, and the cluster's nodes know no other");
        }
        Ok(Cgroups {
            folders,
            hierarchies,
        })
    }

    /// The folders, separated by spaces.
    pub fn folders(&self) -> String {
        let folders = self
            .folders
            .iter()
            .map(|folder| folder.display().to_string());
        folders.collect::<Vec<_>>().join(" ")
    }

    /// The mount options of the hierarchies, separated by spaces.
    pub fn hierarchies(&self) -> String {
        self.hierarchies.join(" ")
    }

    /// The processes in the cgroups and below them.
    pub fn processes(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for cgroup in self
            .folders
            .first()
            .into_iter()
            .flat_map(|folder| below(folder))
        {
            let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            pids.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        pids
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for folder in &self.folders {
            // Remainders are removed by the next run.
            let _ = remove(folder);
            // The lab's own cgroup, once the last machine's is gone.
            let _ = folder.parent().map(fs::remove_dir);
        }
    }
}

/// Removes the cgroups of labs whose run is over: those without a folder in `runs`.
pub fn sweep(runs: &Path) -> Result<()> {
    for hierarchy in fs::read_dir(ROOT)? {
        for cgroup in within(&hierarchy?.path(), DEPTH) {
            let name = cgroup.file_name().unwrap_or_default().to_string_lossy();
            // `peili-e2e-<process>-<lab>`
            let run = name.rsplit_once('-').map_or("", |(run, _)| run);
            if run.starts_with("peili-e2e-") && !runs.join(run).exists() {
                remove(&cgroup)?;
            }
        }
    }
    Ok(())
}

fn folder_of(hierarchy: &str) -> PathBuf {
    Path::new(ROOT).join(hierarchy.trim_start_matches("name="))
}

/// A new cpuset is empty, and accepts no process until it has processors and memory.
fn inherit_cpus(base: &Path, cgroups: &[PathBuf]) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = fs::read_to_string(base.join(file))?;
        for cgroup in cgroups {
            fs::write(cgroup.join(file), &value)?;
        }
    }
    Ok(())
}

/// The cgroup and all below it, the deepest last.
fn below(cgroup: &Path) -> Vec<PathBuf> {
    let mut all = vec![cgroup.to_owned()];
    all.extend(within(cgroup, usize::MAX));
    all
}

fn within(cgroup: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(cgroup) else {
        return found;
    };
    for entry in entries.flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            found.extend(within(&entry.path(), depth - 1));
        }
    }
    found
}

fn remove(cgroup: &Path) -> Result<()> {
    let deadline = Instant::now() + LEAVE_LIMIT;
    loop {
        let busy = below(cgroup).into_iter().rev().find_map(|cgroup| {
            let error = fs::remove_dir(&cgroup).err()?;
            (error.kind() != std::io::ErrorKind::NotFound).then_some((cgroup, error))
        });
        let Some((cgroup, error)) = busy else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            return Err(error).with_context(|| format!("cgroup {} not removed", cgroup.display()));
        }
        std::thread::sleep(POLL);
    }
}
