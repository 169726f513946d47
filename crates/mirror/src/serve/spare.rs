//! A reserved descriptor. If the process has no other left, a connection can still be accepted and closed, and its
//! client goes elsewhere. In the kernel's queue it would wait indefinitely, since the kernel has told it that it is
//! connected.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use futures::FutureExt as _;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// The minimal interval between log lines about a lack of descriptors.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The descriptor of one listener.
#[derive(Debug)]
pub struct Spare {
    kept: Option<OwnedFd>,
    warned: Option<Instant>,
}

impl Spare {
    pub fn new(listener: &TcpListener) -> Self {
        let mut spare = Self {
            kept: None,
            warned: None,
        };
        spare.keep(listener);
        spare
    }

    /// Reserves a descriptor again, once the connection that took its place is closed.
    pub fn keep(&mut self, listener: &TcpListener) {
        if self.kept.is_none() {
            self.kept = listener.as_fd().try_clone_to_owned().ok();
        }
    }

    /// Accepts a waiting connection in place of the descriptor, to be refused. `None`: the error is another one, there
    /// is no reserved descriptor, or no client waits.
    pub fn accept(
        &mut self,
        listener: &TcpListener,
        error: &io::Error,
    ) -> Option<(TcpStream, SocketAddr)> {
        if !is_out_of_descriptors(error) {
            return None;
        }
        self.warn(error);
        drop(self.kept.take()?);
        listener.accept().now_or_never()?.ok()
    }

    fn warn(&mut self, error: &io::Error) {
        let lately = |at: Instant| at.elapsed() < WARN_EVERY;
        if !self.warned.is_some_and(lately) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                %error,
                "no descriptors left; new connections are refused. Raise the limit of open files (LimitNOFILE= of \
                 systemd, ulimit -n, or the container runtime's)"
            );
        }
    }
}

/// Whether the process or the host has no descriptors left.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn only_without_descriptors_it_is_given_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port");
        let mut spare = Spare::new(&listener);
        let address = listener.local_addr().expect("bound");
        let client = TcpStream::connect(address).await.expect("it listens");
        let other = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert!(spare.accept(&listener, &other).is_none() && spare.kept.is_some());

        let out = io::Error::from_raw_os_error(Errno::MFILE.raw_os_error());
        // Only a poll without a result makes the runtime check again.
        let (accepted, remote) = loop {
            if let Some(accepted) = spare.accept(&listener, &out) {
                break accepted;
            }
            spare.keep(&listener);
            tokio::task::yield_now().await;
        };
        assert_eq!(remote, client.local_addr().expect("connected"));
        assert!(spare.accept(&listener, &out).is_none(), "there is one");
        drop(accepted);
        spare.keep(&listener);
        assert!(spare.kept.is_some());
    }
}
