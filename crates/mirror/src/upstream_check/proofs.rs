//! Which repositories were public and which were refused, kept over restarts: a site whose mirrors all restart while
//! upstream is unreachable still pulls what was public before, and nothing that was private.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci::Origin;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::answers::Proof;

/// The interval between checks for changes to write.
const PERIOD: Duration = Duration::from_secs(10);
/// The most bytes of a file that is read: enough for 4,096 names of at most 512 bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// A repository in the file. Times are in seconds since 1970, UTC.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    registry: String,
    repository: String,
    /// When upstream gave a manifest to an anonymous client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public: Option<u64>,
    /// When upstream refused one to an anonymous client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<u64>,
}

/// Reads the file that [`keep`] wrote. A missing or damaged file proves nothing.
pub fn read(path: &Path) -> Vec<(Origin, Proof)> {
    let found = match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() <= MAX_FILE => std::fs::read(path),
        Ok(_) => Err(io::Error::other("it is too large")),
        Err(error) => Err(error),
    };
    let proofs = found.and_then(|bytes| Ok(serde_json::from_slice::<Vec<Entry>>(&bytes)?));
    match proofs {
        Ok(proofs) => proofs.into_iter().filter_map(Entry::restored).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(
                path = %path.display(),
                %error,
                "cannot read which repositories are public and which are not; they are checked anew"
            );
            Vec::new()
        }
    }
}

/// Writes changed proofs. Never returns. Writes soon, or at once when one is `refused`: after a restart while upstream
/// is unreachable, refused content would otherwise be sent to all clients. `changed` returns the proofs, or `None`
/// while they are unchanged.
pub async fn keep(
    path: &Path,
    refused: &Notify,
    changed: impl Fn() -> Option<Vec<(Origin, Proof)>>,
) {
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = period.tick() => {}
            () = refused.notified() => {}
        }
        let Some(proofs) = changed() else { continue };
        let path = path.to_owned();
        let shown = path.display().to_string();
        let written = spawn_blocking(move || write(&path, &proofs)).await;
        if let Err(error) = written
            .map_err(io::Error::other)
            .and_then(|written| written)
        {
            tracing::warn!(
                path = shown,
                %error,
                "cannot write which repositories are public and which are not; after a restart they are checked anew"
            );
        }
    }
}

fn write(path: &Path, proofs: &[(Origin, Proof)]) -> io::Result<()> {
    let proofs: Vec<_> = proofs.iter().map(Entry::of).collect();
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(&proofs)?)?;
    std::fs::rename(&new, path)
}

impl Entry {
    fn of((origin, proof): &(Origin, Proof)) -> Self {
        let seconds = |at: &SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (public, refused) = match proof {
            Proof::Public(at) => (Some(seconds(at)), None),
            Proof::Refused(at) => (None, Some(seconds(at))),
        };
        Self {
            registry: origin.registry.to_string(),
            repository: origin.repository.to_string(),
            public,
            refused,
        }
    }

    fn restored(self) -> Option<(Origin, Proof)> {
        let origin = Origin {
            registry: self.registry.parse().ok()?,
            repository: self.repository.parse().ok()?,
        };
        let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let proof = match (self.refused, self.public) {
            (Some(refused), _) => Proof::Refused(at(refused)?),
            (None, public) => Proof::Public(at(public?)?),
        };
        Some((origin, proof))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_proves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("repositories.json");
        assert!(read(&path).is_empty());
        let origin = Origin {
            registry: "10.0.0.1:5000".parse().expect("a registry"),
            repository: "a/b".parse().expect("a repository"),
        };
        let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let proofs = [
            (origin.clone(), Proof::Public(at)),
            (origin, Proof::Refused(at)),
        ];
        write(&path, &proofs).expect("written");
        assert_eq!(read(&path), proofs);
        for damaged in [
            "",
            "[{}]",
            r#"[{"registry":"","repository":"a","public":1}]"#,
            r#"[{"registry":"b","repository":"a"}]"#,
        ] {
            std::fs::write(&path, damaged).expect("written");
            assert!(read(&path).is_empty(), "{damaged}");
        }
    }
}
