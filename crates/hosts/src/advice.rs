//! Advice to the operator about an error of the file system.

use std::io;

use rustix::io::Errno;

/// What the operator can do about the cause, as the end of a text.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::BUSY) => {
            "something is mounted at this very path: mount the folder above it instead, or drop the mount"
        }
        Some(Errno::XDEV) => {
            "its folder is a mount of its own: mount the folder above it instead, or drop the mount"
        }
        Some(Errno::ROFS) => {
            "the file system is read-only here: mount it writable, or leave this folder out of what is mirrored"
        }
        Some(Errno::PERM) => {
            "the file system forbids it even to root: if `lsattr` shows i or a for the file or its folder, run \
             `chattr -i -a` on it; otherwise run this as the owner of the files or as root"
        }
        Some(Errno::ACCESS) => {
            "run this as root or as the owner of the folder; for root, a security module (SELinux, AppArmor) forbids it"
        }
        Some(Errno::NOSPC | Errno::DQUOT) => {
            "free space and inodes on the file system that holds it"
        }
        Some(Errno::NOTDIR) => "a part of the path is a file: move that file away",
        Some(Errno::ISDIR) => "a folder stands where a file has to be: move that folder away",
        Some(Errno::NOTEMPTY | Errno::EXIST) => {
            "something else was put there meanwhile: run the command again"
        }
        Some(Errno::NOENT) => {
            "it, or what a link leads to, is missing: remove the link, or run the command again"
        }
        Some(Errno::LOOP) => "symbolic links lead in a circle: remove one of them",
        Some(Errno::NAMETOOLONG) => "the name is too long for the file system: shorten it",
        Some(Errno::MFILE | Errno::NFILE) => "raise the limit of open files (ulimit -n)",
        Some(Errno::IO | Errno::STALE | Errno::NODEV | Errno::NXIO) => {
            "the disk or the file server does not work: see the kernel's log"
        }
        _ => "mend that and run the command again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_fits_the_cause() {
        for (errno, word) in [
            (Errno::BUSY, "mounted"),
            (Errno::XDEV, "mount of its own"),
            (Errno::ROFS, "read-only"),
            (Errno::PERM, "chattr -i"),
            (Errno::ACCESS, "as root"),
            (Errno::NOSPC, "free space"),
            (Errno::NOTDIR, "is a file"),
            (Errno::LOOP, "circle"),
        ] {
            let advice = advice(&errno.into());
            assert!(advice.contains(word), "{errno}: {advice}");
            let about_root = matches!(errno, Errno::PERM | Errno::ACCESS);
            assert_eq!(advice.contains("root"), about_root, "{errno}: {advice}");
        }
    }
}
