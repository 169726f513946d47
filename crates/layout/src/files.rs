//! Opens files of the store, without following links or waiting for the other end of a pipe.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::identity::Identity;

/// Opens a regular file. For anything else the error is [`io::ErrorKind::InvalidData`].
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    Ok(open_identified(path, options)?.0)
}

pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    open(path, File::options().read(true))
}

/// Opens a regular file for reading, and returns its identity.
pub(crate) fn open_object(path: &Path) -> io::Result<(File, Identity)> {
    open_identified(path, File::options().read(true))
}

fn open_identified(path: &Path, options: &mut OpenOptions) -> io::Result<(File, Identity)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    options.custom_flags(flags.bits().cast_signed());
    let other = |text| io::Error::new(io::ErrorKind::InvalidData, text);
    let file = options.open(path).map_err(|error| {
        if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
            return other("it is a link, not a regular file");
        }
        error
    })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(other("it is not a regular file"));
    }
    Ok((file, Identity::from(&metadata)))
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open_to_read(path)?;
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Creates a new file. A remainder of an earlier attempt is removed first: the caller knows that it is not in use.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove(path)?;
            options.open(path)
        }
        opened => opened,
    }
}

/// Removes a file, which may be gone already, or an empty folder in its place.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir(path),
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
