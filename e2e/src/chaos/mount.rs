//! Separate file systems for folders that are filled or made read-only.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::process::output;

/// The steps in which a file system is filled, in bytes. The rest is too small for any useful file.
const LARGEST_STEP: u64 = 64 << 20;
const SMALLEST_STEP: u64 = 4 << 10;

/// A file system in memory. It is unmounted on drop.
pub struct Mount {
    point: PathBuf,
}

impl Mount {
    /// Mounts a file system of at most this many bytes.
    pub fn new(point: &Path, bytes: u64) -> Result<Mount> {
        fs::create_dir_all(point)?;
        let mut mount = Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={bytes},mode=755"),
            "tmpfs",
        ]);
        output(mount.arg(point))?;
        let point = point.to_owned();
        Ok(Mount { point })
    }

    /// Fills it up.
    pub fn fill(&self) -> Result<()> {
        let file = File::create(self.filling())?;
        let (mut filled, mut step) = (0, LARGEST_STEP);
        // Other programs write at the same time, so the free space is unknown.
        while step >= SMALLEST_STEP {
            match fallocate(&file, FallocateFlags::empty(), filled, step) {
                Ok(()) => filled += step,
                Err(Errno::NOSPC) => step /= 2,
                Err(error) => return Err(error).context("the file that fills up"),
            }
        }
        Ok(())
    }

    /// Removes the filling file.
    pub fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.filling())?)
    }

    /// Makes the file system read-only, or writable again.
    pub fn set_read_only(&self, is_read_only: bool) -> Result<()> {
        let options = if is_read_only {
            "remount,ro"
        } else {
            "remount,rw"
        };
        output(Command::new("mount").args(["-o", options]).arg(&self.point)).map(drop)
    }

    fn filling(&self) -> PathBuf {
        self.point.join("filling")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Remainders are removed by the next run.
        let _ = output(Command::new("umount").arg("--lazy").arg(&self.point));
    }
}
