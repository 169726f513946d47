//! Opens objects: those verified and unchanged since are returned at once, others are compared with their digests
//! before or while they are sent.

use std::fs::File;
use std::io;
use std::sync::Arc;

use mirror::Content;
use oci::Digest;
use rustix::io::Errno;

use crate::files;
use crate::identity::Identity;
use crate::store::{Shared, State};
use crate::verify::{Verification, verify};

/// Objects up to this size, in bytes, are compared with their digests while the caller waits: about a millisecond.
pub(crate) const VERIFIED_AT_ONCE: u64 = 1024 * 1024;

/// The fault of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It was removed by another program.
    Removed,
    /// It cannot be read because of its permissions: not served, and left in place.
    Forbidden(String),
    /// Its content does not match its name, or the disk has lost it.
    Damaged(String),
}

impl Fault {
    /// The fault that a failure to open or to read an object shows. `None`: none, the next attempt may succeed.
    fn of(error: &io::Error) -> Option<Self> {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => return Some(Self::Removed),
            io::ErrorKind::PermissionDenied => return Some(Self::Forbidden(error.to_string())),
            io::ErrorKind::InvalidData => return Some(Self::Damaged(error.to_string())),
            _ => {}
        }
        let errno = error.raw_os_error().map(Errno::from_raw_os_error)?;
        // Errors of the disk, errors of the file system for damaged structures, and a socket in the file's place.
        let damage = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NXIO];
        let is_damage = damage.contains(&errno);
        is_damage.then(|| Self::Damaged(error.to_string()))
    }
}

/// An opened object of the right size.
struct OpenedObject {
    file: File,
    identity: Identity,
    /// Its bytes were found right, and it has not changed since.
    is_verified: bool,
}

impl Shared {
    /// Opens an object of the store. If it is found damaged, it is removed from the store.
    ///
    /// # Errors
    /// It cannot be opened or verified now, which says nothing about the object.
    pub(crate) fn open(self: &Arc<Self>, digest: &Digest) -> io::Result<Option<Content>> {
        let Some(opened) = self.open_file(digest)? else {
            return Ok(None);
        };
        let (file, identity) = (Arc::new(opened.file), opened.identity);
        let size = identity.size;
        if !opened.is_verified {
            if size > VERIFIED_AT_ONCE {
                self.state.lock().touch(digest);
                return self.verify_beside(digest, file, identity).map(Some);
            }
            if self.verify(digest, &file, identity, |_| true)? != Verification::Right {
                return Ok(None);
            }
        }
        self.state.lock().touch(digest);
        Ok(Some(Content::File { file, size }))
    }

    /// Whether an object is in the store, verified or not.
    ///
    /// # Errors
    /// It cannot be opened now, which says nothing about the object.
    pub(crate) fn contains(&self, digest: &Digest) -> io::Result<bool> {
        Ok(self.open_file(digest)?.is_some())
    }

    fn open_file(&self, digest: &Digest) -> io::Result<Option<OpenedObject>> {
        let Some((size, verified)) = self.state.lock().look_up(digest) else {
            return Ok(None);
        };
        let (file, identity) = match files::open_object(&self.folder.blob(digest)) {
            Ok(opened) => opened,
            Err(error) => return self.not_opened(digest, &error).map(|()| None),
        };
        let is_verified = verified == Some(identity);
        if !is_verified && identity.size != size {
            let text = format!("it has {} bytes instead of {size}", identity.size);
            self.withdraw(digest, Some(identity), &Fault::Damaged(text));
            return Ok(None);
        }
        Ok(Some(OpenedObject {
            file,
            identity,
            is_verified,
        }))
    }

    /// Compares an opened object with its digest, and records it as verified or withdraws it.
    ///
    /// # Errors
    /// It cannot be read now, which says nothing about the object.
    pub(crate) fn verify(
        &self,
        digest: &Digest,
        file: &File,
        identity: Identity,
        go_on: impl FnMut(u64) -> bool,
    ) -> io::Result<Verification> {
        let fault = match verify(file, identity.size, digest, go_on) {
            Ok(Verification::Right) => {
                // If it was written while it was read, it is right once, but not recorded as verified.
                if Identity::of(file)? == identity {
                    self.state.lock().note_verified(digest, identity);
                }
                return Ok(Verification::Right);
            }
            Ok(Verification::Stopped) => return Ok(Verification::Stopped),
            Ok(Verification::Wrong) => {
                Fault::Damaged("its bytes are not what its name says".into())
            }
            Err(error) => Fault::of(&error).ok_or_else(|| self.cannot_read(digest, &error))?,
        };
        self.withdraw(digest, Some(identity), &fault);
        Ok(Verification::Wrong)
    }

    /// Withdraws an object whose bytes another component found wrong.
    pub(crate) fn reported(&self, digest: &Digest) {
        let done = match files::open_object(&self.folder.blob(digest)) {
            Ok((_, identity)) => {
                let text = "bytes that were read of it are not what its name says";
                self.withdraw(digest, Some(identity), &Fault::Damaged(text.into()));
                Ok(())
            }
            Err(error) => self.not_opened(digest, &error),
        };
        if let Err(error) = done {
            tracing::warn!(%digest, %error, "an object of the store may be damaged");
        }
    }

    pub(crate) fn not_opened(&self, digest: &Digest, error: &io::Error) -> io::Result<()> {
        let fault = Fault::of(error).ok_or_else(|| self.cannot_read(digest, error))?;
        self.withdraw(digest, None, &fault);
        Ok(())
    }

    fn cannot_read(&self, digest: &Digest, error: &io::Error) -> io::Error {
        let path = self.folder.blob(digest);
        let text = format!("cannot read {}: {error}", path.display());
        io::Error::new(error.kind(), text)
    }

    /// Hides a faulty object and removes it: it is fetched again on request. `judged`: the faulty file, `None` if it
    /// could not be opened. A file that has replaced it meanwhile stays.
    pub(crate) fn withdraw(&self, digest: &Digest, judged: Option<Identity>, fault: &Fault) {
        let path = self.folder.blob(digest);
        let mut state = self.state.lock();
        if state.look_up(digest).is_none() {
            return;
        }
        if let Ok((_, now)) = files::open_object(&path)
            && judged.is_none_or(|judged| judged.inode != now.inode)
        {
            return;
        }
        self.forget(&mut state, std::slice::from_ref(digest));
        let leaving = match fault {
            Fault::Damaged(_) => self.take_out(&mut state, &path),
            Fault::Removed | Fault::Forbidden(_) => None,
        };
        drop(state);
        self.metrics.damaged.inc();
        let path = path.display();
        match fault {
            // Perhaps one of thousands, and perhaps on purpose.
            Fault::Removed => tracing::info!(%path, "somebody removed an object from the store"),
            Fault::Forbidden(error) | Fault::Damaged(error) => {
                tracing::warn!(%path, error, "an object of the store is damaged; it is fetched anew when it is asked for");
            }
        }
        if let Some(path) = leaving {
            self.wake.remove(path);
        }
    }
}

impl State {
    /// The size of an object of the store, and the identity of its file when its bytes were last found right.
    fn look_up(&self, digest: &Digest) -> Option<(u64, Option<Identity>)> {
        let size = self.space.size(digest)?;
        Some((size, self.verified.get(digest).copied()))
    }

    /// Records that the bytes of an object were found right.
    pub(crate) fn note_verified(&mut self, digest: &Digest, identity: Identity) {
        if self.space.size(digest).is_some() {
            self.verified.insert(digest.clone(), identity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_of_the_object_itself_costs_the_object() {
        let of = |errno: Errno| Fault::of(&io::Error::from_raw_os_error(errno.raw_os_error()));
        assert_eq!(of(Errno::NOENT), Some(Fault::Removed));
        for errno in [Errno::ACCESS, Errno::PERM] {
            assert!(matches!(of(errno), Some(Fault::Forbidden(_))), "{errno}");
        }
        for errno in [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NXIO] {
            assert!(matches!(of(errno), Some(Fault::Damaged(_))), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR] {
            assert_eq!(of(errno), None, "{errno}");
        }
    }
}
