//! The progress of a pull, on standard error if that is a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use status::{text, words};
use tokio::time::{Instant, interval};

/// The interval between updates.
const PERIOD: Duration = Duration::from_millis(200);
/// Moves to the beginning of the line and erases it (ECMA-48).
const ERASE: &str = "\r\x1b[2K";

/// Counts the bytes of a pull.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    received: AtomicU64,
    /// 0: unknown yet.
    size: AtomicU64,
}

impl Progress {
    /// Sets the size of the pull in bytes.
    pub fn size(&self, bytes: u64) {
        self.0.size.store(bytes, Ordering::Relaxed);
    }

    /// Adds bytes that have come.
    pub fn more(&self, bytes: u64) {
        self.0.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Shows the progress until dropped.
    pub fn show(&self) -> impl Future<Output = ()> + Send + use<> {
        let counts = self.0.clone();
        async move {
            if !std::io::stderr().is_terminal() {
                return;
            }
            let began = Instant::now();
            let mut clock = interval(PERIOD);
            loop {
                clock.tick().await;
                let received = counts.received.load(Ordering::Relaxed);
                let size = counts.size.load(Ordering::Relaxed).max(received);
                let millis = began.elapsed().as_millis().max(1);
                let rate = u128::from(received) * 1000 / millis;
                let line = format!(
                    "{ERASE}{} {} of {}, {}",
                    text::bar(received, size),
                    words::bytes(received),
                    words::bytes(size),
                    words::rate(u64::try_from(rate).unwrap_or(u64::MAX)),
                );
                let mut stderr = std::io::stderr().lock();
                // A failure to show progress is not a failure of the pull.
                let _ = stderr.write_all(line.as_bytes());
                let _ = stderr.flush();
            }
        }
    }

    /// Erases the progress for the following output.
    pub fn clear() {
        if std::io::stderr().is_terminal() {
            eprint!("{ERASE}");
        }
    }
}
