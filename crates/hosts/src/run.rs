//! The two commands.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::plan::{self, Plan};
use crate::tree::{self, failed};
use crate::{Configuration, HostsError, Report, apply};

/// How long another run on the same folder is waited for.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Puts the mirrors first for the registries named, after keeping what the user has in `_backup`. Does nothing where
/// all stands as it should.
///
/// # Errors
/// Faults in the configuration, and with `--prepend-existing` in what the user has for the registries named, are found
/// before anything is changed. After any other error, the folder is in a state from which this and [`cleanup`] end
/// right.
pub fn configure(configuration: &Configuration) -> Result<Report, HostsError> {
    fs::create_dir_all(&configuration.path).map_err(failed("make", &configuration.path))?;
    let _lock = lock(&configuration.path)?;
    let snapshot = tree::scan(&configuration.path)?;
    let Plan { steps, report } = plan::configure(&snapshot, configuration)?;
    apply::run(&configuration.path, &steps)?;
    Ok(report)
}

/// Leaves the folder as the user had it, and no `_backup`. Where there is no `_backup`, only files of ours go. A second
/// run does nothing. The configuration folder itself stays.
///
/// # Errors
/// As with [`configure`]; a folder that does not exist is no error.
pub fn cleanup(path: &Path) -> Result<Report, HostsError> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Report::default()),
        found => found.map_err(failed("read", path))?,
    };
    let _lock = lock(path)?;
    let snapshot = tree::scan(path)?;
    let Plan { steps, report } = plan::cleanup(&snapshot, path);
    apply::run(path, &steps)?;
    Ok(report)
}

/// Keeps other runs off the folder as long as the file is open.
fn lock(path: &Path) -> Result<File, HostsError> {
    let folder = File::open(path).map_err(failed("open", path))?;
    let begin = Instant::now();
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::WouldBlock) if begin.elapsed() < LOCK_LIMIT => {
                thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(HostsError::Busy {
                    path: path.to_owned(),
                    seconds: LOCK_LIMIT.as_secs(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", path)(source)),
        }
    }
}

#[cfg(test)]
mod tests;
