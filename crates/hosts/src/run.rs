//! The two commands: one writes the configuration of mirrors, the other restores the user's.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::failed;
use crate::plan::{self, Plan};
use crate::recognise::Spegel;
use crate::root::Root;
use crate::select::select;
use crate::{ConfigPath, Configuration, HostsError, Report, Warning, apply};

/// The limit for waiting for another run on the same folder.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Puts the mirrors first for the named registries, after copying the user's files to `_backup`. Changes nothing if
/// everything is as desired. Failures for single registries are in [`Report::failures`]; the others are processed.
///
/// # Errors
/// Faults in the configuration are found before anything is changed. After any other error, another run or [`cleanup`]
/// still ends correctly.
pub fn configure(configuration: &Configuration) -> Result<Report, HostsError> {
    let targets = configuration.distinct_targets()?;
    let paths = configuration.path.existing_or_made()?;
    let _locks = lock_all(&paths)?;
    let roots = paths.iter().map(|path| Root::read(path, Spegel::Exactly));
    let roots = roots.collect::<Result<Vec<_>, _>>()?;
    let mut report = Report::default();
    let selected = select(configuration, &roots, &mut report.warnings)?;
    for (root, selected) in roots.iter().zip(&selected) {
        let plan = plan::configure(root, selected, configuration, &targets);
        report.extend(carry_out(root, plan, roots.len() == 1)?);
    }
    let ipv6 = targets.iter().filter(|target| target.is_ipv6_literal());
    report
        .warnings
        .extend(ipv6.map(|target| Warning::Ipv6Literal {
            target: (*target).clone(),
        }));
    Ok(report)
}

/// Restores the user's folders and removes `_backup`. Without a `_backup`, only files of Peili are removed. A second
/// run changes nothing. The configuration folders themselves stay. What cannot be restored is in [`Report::failures`],
/// and stays in `_backup`.
///
/// # Errors
/// The same as for [`configure`]; a folder that does not exist is not an error.
pub fn cleanup(path: &ConfigPath) -> Result<Report, HostsError> {
    let paths = path.existing()?;
    let _locks = lock_all(&paths)?;
    let mut report = Report::default();
    for path in &paths {
        let only = paths.len() == 1;
        let done = Root::read(path, Spegel::Never)
            .and_then(|root| carry_out(&root, plan::cleanup(&root), only));
        match done {
            Ok(done) => report.extend(done),
            Err(error) if only => return Err(error),
            Err(error) => report.fail(path, error),
        }
    }
    Ok(report)
}

/// Executes a plan, and reports what was done. `only`: this is the only folder, so it is an error if nothing could be
/// done.
fn carry_out(root: &Root<'_>, plan: Plan, only: bool) -> Result<Report, HostsError> {
    let Plan { steps, mut report } = plan;
    match apply::run(root.path, &steps) {
        Ok(failed) => {
            for (entry, error) in failed {
                report.fail(&root.path.join(entry), error);
            }
        }
        Err(error) if only => return Err(error),
        Err(error) => report.fail(root.path, error),
    }
    Ok(report)
}

fn lock_all(paths: &[&Path]) -> Result<Vec<File>, HostsError> {
    paths.iter().map(|path| lock(path)).collect()
}

/// Excludes other runs on the folder as long as the file is open.
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
