//! Executes steps on the file system.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown, symlink,
};
use std::path::{Path, PathBuf};

use crate::HostsError;
use crate::error::failed;
use crate::steps::{Step, StepScope};
use crate::tree::{Meta, STAGING};

const FOLDER_MODE: u32 = 0o755;

/// The entries with a failed step, and the errors.
pub(crate) type Failed = BTreeMap<OsString, HostsError>;

/// Executes the steps in the configuration folder, each made durable before the next begins.
///
/// # Errors
/// A step failed that is not for one entry alone.
pub(crate) fn run(root: &Path, steps: &[Step]) -> Result<Failed, HostsError> {
    let applier = Applier { root };
    let mut failed = Failed::new();
    let mut scope = &StepScope::Whole;
    for step in steps {
        if let Step::For(next) = step {
            scope = next;
            continue;
        }
        let left_out = match scope {
            StepScope::Whole => false,
            StepScope::Entry(entry) => failed.contains_key(entry),
            StepScope::Finish => !failed.is_empty(),
        };
        if left_out {
            continue;
        }
        match (applier.step(step), scope) {
            (Ok(()), _) => {}
            (Err(error), StepScope::Entry(entry)) => {
                applier.remove_staged("part")?;
                failed.insert(entry.clone(), error);
            }
            (Err(error), StepScope::Whole | StepScope::Finish) => return Err(error),
        }
    }
    Ok(failed)
}

struct Applier<'a> {
    root: &'a Path,
}

impl Applier<'_> {
    fn step(&self, step: &Step) -> Result<(), HostsError> {
        let at = |path: &Path| self.root.join(path);
        match step {
            Step::For(_) => Ok(()),
            Step::BeginStaging => {
                self.clear_staging()?;
                let staging = self.staging("");
                fs::DirBuilder::new()
                    .mode(0o700)
                    .create(&staging)
                    .map_err(failed("make", &staging))
            }
            Step::EndStaging => self.clear_staging(),
            Step::MakeFolder { path, meta } => self
                .make_folder(&at(path), *meta)
                .map_err(failed("make", &at(path))),
            Step::SetMeta { path, meta } => {
                set_meta(&at(path), *meta).map_err(failed("set the rights of", &at(path)))
            }
            Step::Copy { from, to } => self
                .copy(&at(from), &at(to))
                .map_err(failed("copy", &at(from))),
            Step::Write { path, bytes, mode } => self
                .write(&at(path), bytes, *mode)
                .map_err(failed("write", &at(path))),
            Step::Remove { path } => fs::remove_file(at(path))
                .and_then(|()| sync_parent(&at(path)))
                .map_err(failed("remove", &at(path))),
            Step::RemoveFolder { path } => fs::remove_dir(at(path))
                .and_then(|()| sync_parent(&at(path)))
                .map_err(failed("remove", &at(path))),
            Step::Move { from, to } => rename(&at(from), &at(to))
                .and_then(|()| sync_parent(&at(from)))
                .map_err(failed("move", &at(from))),
        }
    }

    fn staging(&self, name: &str) -> PathBuf {
        self.root.join(STAGING).join(name)
    }

    fn clear_staging(&self) -> Result<(), HostsError> {
        remove(&self.root.join(STAGING))
    }

    /// Removes what a failed step has left: it would block the next one.
    fn remove_staged(&self, name: &str) -> Result<(), HostsError> {
        remove(&self.staging(name))
    }

    /// A folder is created with its final permissions: only they show whether it is finished.
    fn make_folder(&self, path: &Path, meta: Option<Meta>) -> io::Result<()> {
        let part = self.staging("part");
        fs::create_dir(&part)?;
        match meta {
            Some(meta) => set_meta(&part, meta)?,
            None => fs::set_permissions(&part, fs::Permissions::from_mode(FOLDER_MODE))?,
        }
        rename(&part, path)
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let part = self.staging("part");
        let found = fs::symlink_metadata(from)?;
        let meta = Meta {
            mode: found.permissions().mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
        };
        if found.is_symlink() {
            symlink(fs::read_link(from)?, &part)?;
            set_owner(&part, meta)?;
        } else {
            let mut file = create(&part, 0o600)?;
            io::copy(&mut File::open(from)?, &mut file)?;
            set_meta(&part, meta)?;
            file.set_modified(found.modified()?)?;
            file.sync_all()?;
        }
        rename(&part, to)
    }

    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let part = self.staging("part");
        let mut file = create(&part, mode)?;
        file.write_all(bytes)?;
        // The umask may have removed some permissions.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        rename(&part, path)
    }
}

/// Removes whatever is at the path, if anything is.
fn remove(path: &Path) -> Result<(), HostsError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
}

fn set_meta(path: &Path, meta: Meta) -> io::Result<()> {
    // In this order: a change of owner clears bits of the mode.
    set_owner(path, meta)?;
    fs::set_permissions(path, fs::Permissions::from_mode(meta.mode))
}

fn set_owner(path: &Path, meta: Meta) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if (found.uid(), found.gid()) == (meta.uid, meta.gid) {
        return Ok(());
    }
    lchown(path, Some(meta.uid), Some(meta.gid))
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

/// An entry of a folder is durable only when the folder is.
fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
