//! Verifies objects alongside requests: large ones while they are sent, and everything not verified since the start,
//! little by little.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mirror::{Content, Growing, IngestStage, Progress};
use oci::Digest;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::files;
use crate::identity::Identity;
use crate::store::Shared;
use crate::verify::Verification;

/// The last bytes of an object are withheld while it is verified: without its end, no client accepts wrong bytes as the
/// whole object. The verification reads them within milliseconds, so a sound object is sent without a pause. An object
/// up to this size is withheld whole.
const WITHHELD: u64 = 8 * 1024 * 1024;
/// The most time for which the end is withheld: some clients ask only for the end of a very large object. A client that
/// wants all of it takes longer, and its body ends as soon as the object is found wrong. Tests wait for the end: their
/// result must not depend on the speed of hashing.
const WITHHELD_FOR: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 250 });
/// The most verifications alongside requests that run at once.
const MAX_CONCURRENT: usize = 4;
/// The most verifications alongside requests that run or wait for their turn. Each has a thread and an open file.
/// Further objects are not opened.
const MAX_CHECKS: usize = 32;
/// The limit of the wait for a turn. A verification without one fails, and says nothing about the object.
const TURN_LIMIT: Duration = Duration::from_secs(5);
/// The rate at which objects not verified since the start are read in the background, in bytes per second.
const BACKGROUND_RATE: u64 = 16 * 1024 * 1024;
/// The pause after each background round over all files.
const REST: Duration = Duration::from_secs(600);

/// A verification alongside requests. Other requests for the same file join it.
pub(crate) struct Check {
    identity: Identity,
    growing: Growing,
}

/// A verification that others can join. Dropping it withdraws it.
struct Running<'a> {
    shared: &'a Shared,
    digest: &'a Digest,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().checks.remove(self.digest);
    }
}

/// The turn of a verification to run. Dropping it gives it to another one.
struct Turn<'a>(&'a Checks);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
        self.0.changed.notify_all();
    }
}

/// Ends the verifications, and holds those that run alongside requests.
#[derive(Default)]
pub(crate) struct Checks {
    state: Mutex<ChecksState>,
    changed: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct ChecksState {
    has_ended: bool,
    /// The verifications alongside requests that run.
    running: usize,
}

impl Checks {
    fn has_ended(&self) -> bool {
        self.state.lock().has_ended
    }

    /// Waits until then. Returns false if the work is to end.
    fn wait_until(&self, then: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.has_ended {
            if self.changed.wait_until(&mut state, then).timed_out() {
                break;
            }
        }
        !state.has_ended
    }

    /// Waits for a turn, one of [`MAX_CONCURRENT`]. `None`: there is none until then, or the work is to end.
    fn turn(&self, until: Instant) -> Option<Turn<'_>> {
        let mut state = self.state.lock();
        while !state.has_ended && state.running >= MAX_CONCURRENT {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return None;
            }
        }
        if state.has_ended {
            return None;
        }
        state.running += 1;
        Some(Turn(self))
    }

    fn spawn(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name("layout-verify".into());
        let thread = thread.spawn(work)?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Ends all verifications.
    pub(crate) fn end(&self) {
        self.state.lock().has_ended = true;
        self.changed.notify_all();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A panic would have been reported already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Returns an object that is verified meanwhile.
    ///
    /// # Errors
    /// Too many are being verified, or another file with this name is.
    pub(crate) fn verify_beside(
        self: &Arc<Self>,
        digest: &Digest,
        file: Arc<File>,
        identity: Identity,
    ) -> io::Result<Content> {
        let size = identity.size;
        let mut state = self.state.lock();
        if let Some(check) = state.checks.get(digest)
            && check.identity == identity
        {
            let growing = check.growing.clone();
            return Ok(Content::Verifying { growing, size });
        }
        if state.checks.len() >= MAX_CHECKS || state.checks.contains_key(digest) {
            let text = "too many objects are being verified";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        let (progress, reader) = watch::channel(Progress {
            written: size.saturating_sub(WITHHELD),
            total: Some(size),
            stage: IngestStage::Filling,
        });
        let growing = Growing::new(file.clone(), reader);
        let (shared, name) = (self.clone(), digest.clone());
        self.checks
            .spawn(move || shared.check(&name, &file, identity, &progress))?;
        let check = Check {
            identity,
            growing: growing.clone(),
        };
        state.checks.insert(digest.clone(), check);
        Ok(Content::Verifying { growing, size })
    }

    /// Verifies an object for those who read it meanwhile.
    fn check(
        &self,
        digest: &Digest,
        file: &File,
        identity: Identity,
        progress: &watch::Sender<Progress>,
    ) {
        let size = identity.size;
        // However it ends, others can no longer join it.
        let running = Running {
            shared: self,
            digest,
        };
        let turn = self.checks.turn(Instant::now() + TURN_LIMIT);
        let began = Instant::now();
        let verification = turn.as_ref().map(|_| {
            self.verify(digest, file, identity, |_| {
                if began.elapsed() > WITHHELD_FOR {
                    progress.send_if_modified(|p| std::mem::replace(&mut p.written, size) < size);
                }
                !self.checks.has_ended()
            })
        });
        drop(turn);
        // Withdrawn before any reader is told: a client that asks again gets it from elsewhere.
        drop(running);
        progress.send_modify(|p| match verification {
            Some(Ok(Verification::Right)) => {
                p.written = size;
                p.stage = IngestStage::Complete;
            }
            Some(Ok(Verification::Wrong | Verification::Stopped) | Err(_)) | None => {
                p.written = 0;
                p.stage = IngestStage::Failed;
            }
        });
    }

    /// Starts to verify in the background everything that was not verified since the start, or has changed since.
    pub(crate) fn verify_in_the_background(self: &Arc<Self>) -> io::Result<()> {
        let shared = self.clone();
        self.checks.spawn(move || {
            while shared.verify_all() && shared.checks.wait_until(Instant::now() + REST) {}
        })
    }

    /// Runs one round. Returns false if the work is to end.
    fn verify_all(&self) -> bool {
        let mut next = Instant::now();
        let digests = self.state.lock().space.by_last_use();
        digests.iter().all(|digest| {
            self.verify_unless_known(digest, |bytes| {
                next = next.max(Instant::now()) + pause_after(bytes);
                self.checks.wait_until(next)
            });
            !self.checks.has_ended()
        })
    }

    fn verify_unless_known(&self, digest: &Digest, go_on: impl FnMut(u64) -> bool) {
        let (file, identity) = match files::open_object(&self.folder.blob(digest)) {
            Ok(opened) => opened,
            Err(error) => {
                // An error that says nothing about the object is checked again in the next round.
                let _ = self.not_opened(digest, &error);
                return;
            }
        };
        {
            let state = self.state.lock();
            let is_known = state.verified.get(digest) == Some(&identity);
            if is_known || state.checks.contains_key(digest) {
                return;
            }
        }
        if let Err(error) = self.verify(digest, &file, identity, go_on) {
            tracing::debug!(%digest, %error, "cannot verify an object now");
        }
    }
}

/// The pause after reading this many bytes in the background.
fn pause_after(bytes: u64) -> Duration {
    Duration::from_secs(1).mul_f64(bytes as f64 / BACKGROUND_RATE as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_background_keeps_its_rate() {
        assert_eq!(pause_after(BACKGROUND_RATE), Duration::from_secs(1));
        assert_eq!(
            pause_after(BACKGROUND_RATE / 64),
            Duration::from_secs(1) / 64
        );
    }

    #[test]
    fn a_wait_ends_early_when_all_is_to_end() {
        let checks = Arc::new(Checks::default());
        let waiting = checks.clone();
        let far = Instant::now() + Duration::from_secs(3600);
        let waiter = std::thread::spawn(move || waiting.wait_until(far));
        checks.end();
        assert!(!waiter.join().expect("no panic"));
        assert!(!checks.wait_until(far), "nor begins again");
    }
    #[test]
    fn few_run_at_once_and_the_next_waits_for_its_turn() {
        let checks = Arc::new(Checks::default());
        let far = Instant::now() + Duration::from_secs(3600);
        let mut running: Vec<_> = (0..MAX_CONCURRENT).map(|_| checks.turn(far)).collect();
        assert!(running.iter().all(Option::is_some));
        assert!(checks.turn(Instant::now()).is_none(), "in time");
        let waiting = checks.clone();
        let waiter = std::thread::spawn(move || waiting.turn(far).is_some());
        running.pop();
        assert!(waiter.join().expect("no panic"));
        checks.end();
        assert!(checks.turn(far).is_none());
    }
}
