//! The descriptors of this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The number of descriptors below which a busy node refuses connections.
const FEW: usize = 4096;

/// Raises the limit of descriptors to the hard limit, and returns it. The soft limit is 1,024 by default for programs
/// that call `select`, which cannot handle more; this one does not call it.
///
/// See getrlimit(2), `RLIMIT_NOFILE`.
pub fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
    let limit = match raised {
        Ok(()) => maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            current
        }
    };
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    if limit < FEW {
        tracing::warn!(
            limit,
            "this process may open few files, so the ports take fewer connections; raise the hard limit to {FEW} or \
             more (LimitNOFILE= of systemd, ulimit -n, or the container runtime's)"
        );
    }
    limit
}
