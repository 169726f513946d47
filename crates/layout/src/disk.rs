//! A full or read-only disk: the messages about it, and whether it still refuses writes.

use std::io;
use std::path::Path;

use mirror::Health;
use parking_lot::Mutex;
use rustix::io::Errno;

/// A disk with this much free space, in bytes, does not count as full, although a larger object may come.
const ENOUGH: u64 = 256 * 1024 * 1024;

/// Whether the store can be written, as the last attempt found.
#[derive(Default)]
pub(crate) struct Disk {
    outage: Mutex<Option<Outage>>,
}

struct Outage {
    kind: io::ErrorKind,
    text: String,
    /// The bytes that must fit for the outage to end.
    needed: u64,
}

impl Disk {
    /// Records that `needed` bytes could not be written. Logs the beginning of an outage; [`Self::health`] has the last
    /// cause.
    pub(crate) fn failed(&self, error: &io::Error, needed: u64) {
        let mut outage = self.outage.lock();
        let (kind, text) = (error.kind(), error.to_string());
        if outage.is_none() {
            tracing::warn!(error = %text, "cannot write to the store; content is passed through unstored");
        }
        let before = outage.as_ref().filter(|o| o.kind == kind);
        let needed = needed.min(ENOUGH).max(before.map_or(0, |o| o.needed));
        *outage = Some(Outage { kind, text, needed });
    }

    /// Records that `bytes` could be written. A small object that fits does not end an outage that a large one began.
    pub(crate) fn wrote(&self, bytes: u64) {
        let mut outage = self.outage.lock();
        if outage.take_if(|o| bytes >= o.needed).is_some() {
            tracing::info!("the store can be written again; content is stored");
        }
    }

    /// The bytes that must fit before the store counts as writable again. `None`: it is writable.
    pub(crate) fn needed(&self) -> Option<u64> {
        self.outage.lock().as_ref().map(|outage| outage.needed)
    }

    pub(crate) fn health(&self) -> Health {
        match &*self.outage.lock() {
            None => Health::Ready,
            Some(outage) => Health::Waiting(format!(
                "{}; content is passed through unstored",
                outage.text
            )),
        }
    }
}

/// Whether the disk is full or read-only. A store is still opened then, to serve its content.
pub(crate) fn takes_no_more(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Adds to a disk error its path and what the operator can do about it. Keeps its kind.
pub(crate) fn explain(path: &Path, error: &io::Error) -> io::Error {
    let advice = advice(error);
    let text = format!("cannot write {}: {error}; {advice}", path.display());
    io::Error::new(error.kind(), text)
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE) => {
            return "raise the limit on open files of the process (LimitNOFILE=, ulimit -n)";
        }
        Some(Errno::NFILE) => return "raise the system's limit on open files (fs.file-max)",
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::StorageFull => {
            "make room on the disk under --store-path or lower --store-limit"
        }
        io::ErrorKind::QuotaExceeded => "raise the disk quota or lower --store-limit",
        io::ErrorKind::FileTooLarge => {
            "raise the limit on the size of files (LimitFSIZE=, ulimit -f)"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount the disk under --store-path writable or give another --store-path"
        }
        io::ErrorKind::PermissionDenied => {
            "give the user that runs Peili the right to write below --store-path"
        }
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            "the folder was removed or its disk unmounted while Peili runs: put it back or restart Peili"
        }
        _ => "check the disk under --store-path",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.raw_os_error())
    }

    #[test]
    fn each_cause_is_told_with_its_path_and_a_way_out() {
        for (errno, cause, way_out) in [
            (Errno::NOSPC, "No space left", "--store-limit"),
            (Errno::DQUOT, "quota exceeded", "raise the disk quota"),
            (Errno::FBIG, "File too large", "ulimit -f"),
            (Errno::ROFS, "Read-only", "writable"),
            (Errno::ACCESS, "Permission denied", "user"),
            (Errno::PERM, "not permitted", "user"),
            (Errno::MFILE, "Too many open files", "LimitNOFILE"),
            (Errno::NFILE, "Too many open files", "file-max"),
            (Errno::NOENT, "No such file", "restart"),
            (Errno::IO, "Input/output", "check the disk"),
        ] {
            let text = explain(Path::new("/store/x"), &of(errno)).to_string();
            let (cause_at, way_out_at) = (text.find(cause), text.find(way_out));
            assert!(text.contains("/store/x"), "{text}");
            assert!(cause_at.is_some() && cause_at < way_out_at, "{text}");
        }
    }

    #[test]
    fn it_is_over_when_as_much_fits_as_did_not() {
        let disk = Disk::default();
        assert_eq!(disk.health(), Health::Ready);
        disk.failed(&explain(Path::new("/store/x"), &of(Errno::NOSPC)), 1000);
        let Health::Waiting(why) = disk.health() else {
            panic!("ready on a full disk");
        };
        assert!(
            why.contains("/store/x") && why.contains("unstored"),
            "{why}"
        );
        disk.wrote(999);
        assert_eq!(disk.needed(), Some(1000));
        disk.failed(&explain(Path::new("/store/y"), &of(Errno::NOSPC)), 0);
        assert_eq!(disk.needed(), Some(1000), "less is no sign of more room");
        disk.wrote(1000);
        assert_eq!(disk.health(), Health::Ready);
        disk.failed(&of(Errno::NOSPC), u64::MAX);
        disk.wrote(ENOUGH);
        assert_eq!(disk.health(), Health::Ready);
    }

    #[test]
    fn a_store_opens_on_what_takes_no_more_and_on_nothing_else() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG, Errno::ROFS] {
            assert!(takes_no_more(&of(errno)), "{errno}");
        }
        for errno in [Errno::ACCESS, Errno::IO, Errno::MFILE, Errno::NOENT] {
            assert!(!takes_no_more(&of(errno)), "{errno}");
        }
    }
}
