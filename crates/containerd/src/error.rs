//! The reasons why containerd cannot be used now.

use std::io;
use std::path::PathBuf;

use crate::client::CallError;

/// What containerd does not do. The text continues "containerd at …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(
        "keeps its content in {}, which cannot be read here ({source}); mount that folder at the same path, read-only \
         will do, or name the path that it has here with --containerd-content-path",
        .path.display()
    )]
    Content { path: PathBuf, source: io::Error },
    #[error(
        "keeps its content in {}, and the folder named by --containerd-content-path, {}, has none of it; name the folder \
         that containerd uses (in the chart: peili.containerdContentPath)",
        .root.display(), .path.display()
    )]
    OtherContent { root: PathBuf, path: PathBuf },
    #[error("closed the connection")]
    Closed,
    #[error("ended: one of its tasks stopped unexpectedly")]
    Interrupted,
}
