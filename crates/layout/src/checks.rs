//! Verifies objects alongside requests: large ones while they are sent, and everything not verified since the start,
//! little by little.

use std::fs::File;
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
/// The most verifications alongside requests at once. Further objects are sent unverified, and verified later.
const MAX_CONCURRENT: usize = 4;
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

/// Ends the verifications, and holds those that run alongside requests.
#[derive(Default)]
pub(crate) struct Checks {
    ended: Mutex<bool>,
    changed: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Checks {
    fn has_ended(&self) -> bool {
        *self.ended.lock()
    }

    /// Waits until then. Returns false if the work is to end.
    fn wait_until(&self, then: Instant) -> bool {
        let mut ended = self.ended.lock();
        while !*ended {
            if self.changed.wait_until(&mut ended, then).timed_out() {
                break;
            }
        }
        !*ended
    }

    fn spawn(&self, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name("layout-verify".into());
        let thread = thread.spawn(work)?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Ends all verifications.
    pub(crate) fn end(&self) {
        *self.ended.lock() = true;
        self.changed.notify_all();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A panic would have been reported already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Returns an object that is verified meanwhile.
    pub(crate) fn verify_beside(
        self: &Arc<Self>,
        digest: &Digest,
        file: Arc<File>,
        identity: Identity,
    ) -> Content {
        let size = identity.size;
        let mut state = self.state.lock();
        if let Some(check) = state.checks.get(digest)
            && check.identity == identity
        {
            let growing = check.growing.clone();
            return Content::Verifying { growing, size };
        }
        if state.checks.len() >= MAX_CONCURRENT || state.checks.contains_key(digest) {
            return Content::File { file, size };
        }
        let (progress, reader) = watch::channel(Progress {
            written: size.saturating_sub(WITHHELD),
            total: Some(size),
            stage: IngestStage::Filling,
        });
        let growing = Growing::new(file.clone(), reader);
        let (shared, name) = (self.clone(), digest.clone());
        let own = file.clone();
        let spawned = self.checks.spawn(move || {
            let began = Instant::now();
            // However it ends, others can no longer join it.
            let running = Running {
                shared: &shared,
                digest: &name,
            };
            let verification = shared.verify(&name, &own, identity, |_| {
                if began.elapsed() > WITHHELD_FOR {
                    progress.send_if_modified(|p| std::mem::replace(&mut p.written, size) < size);
                }
                !shared.checks.has_ended()
            });
            // Withdrawn before any reader is told: a client that asks again gets it from elsewhere.
            drop(running);
            progress.send_modify(|p| match verification {
                Ok(Verification::Right) => {
                    p.written = size;
                    p.stage = IngestStage::Complete;
                }
                Ok(Verification::Wrong | Verification::Stopped) | Err(_) => {
                    p.written = 0;
                    p.stage = IngestStage::Failed;
                }
            });
        });
        if let Err(error) = spawned {
            tracing::warn!(%digest, %error, "cannot verify an object while it is handed out");
            return Content::File { file, size };
        }
        let joined = growing.clone();
        let check = Check { identity, growing };
        state.checks.insert(digest.clone(), check);
        Content::Verifying {
            growing: joined,
            size,
        }
    }

    /// Starts to verify in the background everything that was not verified since the start, or has changed since.
    pub(crate) fn verify_in_the_background(self: &Arc<Self>) -> std::io::Result<()> {
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
}
