//! Which repositories were public, kept over restarts: a site whose mirrors all restart while upstream is away still
//! pulls what was public before.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci::Origin;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

/// Between two looks for changes to write.
const PERIOD: Duration = Duration::from_secs(10);
/// A larger file is not read, in bytes: 4,096 names of at most 512 bytes fit.
const MAX_FILE: u64 = 4 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Proof {
    registry: String,
    repository: String,
    /// When upstream gave a manifest to an anonymous client; in seconds since 1970, UTC.
    public: u64,
}

/// Reads what [`keep`] wrote. A file that is missing or damaged proves nothing.
pub fn read(path: &Path) -> Vec<(Origin, SystemTime)> {
    let found = match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() <= MAX_FILE => std::fs::read(path),
        Ok(_) => Err(io::Error::other("it is too large")),
        Err(error) => Err(error),
    };
    let proofs = found.and_then(|bytes| Ok(serde_json::from_slice::<Vec<Proof>>(&bytes)?));
    match proofs {
        Ok(proofs) => proofs.into_iter().filter_map(Proof::restored).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(
                path = %path.display(),
                %error,
                "cannot read which repositories are public; they are checked anew"
            );
            Vec::new()
        }
    }
}

/// Writes the proofs whenever there are others, for ever. `changed` gives them, or `None` while they are the same.
pub async fn keep(path: &Path, changed: impl Fn() -> Option<Vec<(Origin, SystemTime)>>) {
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        period.tick().await;
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
                "cannot write which repositories are public; after a restart they are checked anew"
            );
        }
    }
}

fn write(path: &Path, proofs: &[(Origin, SystemTime)]) -> io::Result<()> {
    let proofs: Vec<_> = proofs.iter().map(Proof::of).collect();
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(&proofs)?)?;
    std::fs::rename(&new, path)
}

impl Proof {
    fn of((origin, public): &(Origin, SystemTime)) -> Self {
        Self {
            registry: origin.registry.to_string(),
            repository: origin.repository.to_string(),
            public: public
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        }
    }

    fn restored(self) -> Option<(Origin, SystemTime)> {
        let origin = Origin {
            registry: self.registry.parse().ok()?,
            repository: self.repository.parse().ok()?,
        };
        let public = UNIX_EPOCH.checked_add(Duration::from_secs(self.public))?;
        Some((origin, public))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_proves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("public-repositories.json");
        assert!(read(&path).is_empty());
        let origin = Origin {
            registry: "10.0.0.1:5000".parse().expect("a registry"),
            repository: "a/b".parse().expect("a repository"),
        };
        let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        write(&path, &[(origin.clone(), at)]).expect("written");
        assert_eq!(read(&path), [(origin, at)]);
        for damaged in [
            "",
            "[{}]",
            r#"[{"registry":"","repository":"a","public":1}]"#,
        ] {
            std::fs::write(&path, damaged).expect("written");
            assert!(read(&path).is_empty(), "{damaged}");
        }
    }
}
