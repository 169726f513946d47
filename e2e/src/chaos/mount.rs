//! File systems of their own for folders that fill up or cannot be written.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::process::output;

/// In what steps a file system is filled, in bytes. What stays free takes no file of any use.
const LARGEST_STEP: u64 = 64 << 20;
const SMALLEST_STEP: u64 = 4 << 10;

/// A file system in memory. It is taken away when this is dropped.
pub struct Mount {
    point: PathBuf,
}

impl Mount {
    /// Mounts one of at most so many bytes.
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
        // Others write at the same time: what is left is not known.
        while step >= SMALLEST_STEP {
            match fallocate(&file, FallocateFlags::empty(), filled, step) {
                Ok(()) => filled += step,
                Err(Errno::NOSPC) => step /= 2,
                Err(error) => return Err(error).context("the file that fills up"),
            }
        }
        Ok(())
    }

    /// Takes away what fills it.
    pub fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.filling())?)
    }

    /// Lets nobody write, or everybody again.
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
        // What stays is swept by the next run.
        let _ = output(Command::new("umount").arg("--lazy").arg(&self.point));
    }
}
