//! The file of the network keys (`--network-key-file`): read at the start, and again whenever it has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use network_key::{Keyring, MAX_KEY, MAX_KEYS, NetworkKey, NetworkKeys};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::{MissedTickBehavior, interval};

use crate::secret_file;

/// The interval between reads of the file. Kubernetes shows a changed Secret in pods by replacing a symbolic link, up
/// to a minute later.
const READ_EVERY: Duration = Duration::from_secs(2);
/// The most bytes of the file: enough for the most keys, with some blank lines.
const MAX_FILE: u64 = (4 * MAX_KEYS * MAX_KEY) as u64;

/// The keys in force, and their file.
#[derive(Clone, Debug)]
pub struct NetworkKeyFile {
    path: PathBuf,
    pub keys: Keyring,
    /// The fault of the file, while its earlier keys stay in force.
    fault: Arc<Mutex<Option<String>>>,
}

impl NetworkKeyFile {
    /// Reads the file. A missing one gives no keys: until it exists, this node has no peers and accepts none.
    ///
    /// # Errors
    /// It exists but cannot be read, or contains no keys.
    pub fn open(path: PathBuf) -> Result<Self> {
        let keys = read(&path)?;
        if keys.is_none() {
            tracing::warn!(
                path = %path.display(),
                "--network-key-file is not there, so this node has no peers, and pulls go upstream; write the key of the other \
                 nodes into it, or leave the option out to share with whoever connects"
            );
        }
        let keys = Keyring::new(keys.unwrap_or_default());
        let fault = Arc::default();
        Ok(Self { path, keys, fault })
    }

    /// Updates the keys from the file, and counts them. Never returns.
    pub async fn watch(self, count: Gauge) {
        let mut ticks = interval(READ_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            count.set(self.keys.current().len() as i64);
            ticks.tick().await;
            let path = self.path.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || read(&path)).await else {
                continue;
            };
            let fault = self.take(found);
            let is_news = *self.fault.lock() != fault;
            if is_news && let Some(fault) = &fault {
                tracing::warn!(
                    fault,
                    "cannot use --network-key-file; keeping the previous keys"
                );
            }
            *self.fault.lock() = fault;
        }
    }

    /// The state of the file, for a doctor.
    pub fn state(&self) -> doctor::KeyFile {
        let keys = self.keys.current();
        doctor::KeyFile {
            path: self.path.display().to_string(),
            ids: keys.iter().map(|key| key.id().to_owned()).collect(),
            fault: self.fault.lock().clone(),
        }
    }

    /// Puts new keys in force. Returns the fault of the file if the old ones stay.
    fn take(&self, found: Result<Option<NetworkKeys>>) -> Option<String> {
        let current = self.keys.current();
        match found {
            Ok(Some(keys)) if keys.has_all(&current) && current.has_all(&keys) => None,
            Ok(Some(keys)) => {
                let ids: Vec<_> = keys.iter().map(NetworkKey::id).collect();
                tracing::info!(?ids, "new network keys are in force");
                self.keys.replace(keys);
                None
            }
            // That there never was a file was reported at the start.
            Ok(None) if current.is_empty() => None,
            Ok(None) => Some(format!("{} is not there any more", self.path.display())),
            Err(error) => Some(format!("{error:#}")),
        }
    }
}

/// Registers `peili_network_keys`.
pub fn register(registry: &mut Registry) -> Gauge {
    let count = Gauge::default();
    registry.register(
        "peili_network_keys",
        "Network keys of this node, where --network-key-file is given; without one it has no peers",
        count.clone(),
    );
    count
}

/// Reads the file. `None`: it does not exist. Blocking.
fn read(path: &Path) -> Result<Option<NetworkKeys>> {
    let shown = path.display();
    let Some(contents) = secret_file::read(path, MAX_FILE)? else {
        return Ok(None);
    };
    match NetworkKeys::parse(&contents) {
        Ok(keys) => Ok(Some(keys)),
        Err(error) => bail!("{shown} {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// The limit for anything that happens soon or never.
    const GENEROUS: Duration = Duration::from_secs(60);

    fn key(character: &str) -> String {
        character.repeat(32)
    }

    fn keys(text: &str) -> NetworkKeys {
        NetworkKeys::parse(text.as_bytes()).expect("keys")
    }

    #[test]
    fn a_file_that_is_at_fault_is_told_and_one_that_is_missing_gives_no_keys() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("short"), "too-short").expect("written");
        fs::write(path("empty"), "").expect("written");
        fs::write(path("long"), "a".repeat(1 << 20)).expect("written");
        fs::create_dir(path("folder")).expect("made");
        for (name, word) in [
            ("short", "short line 1 has 9 characters"),
            ("empty", "empty holds no key"),
            ("long", "has more than"),
            ("folder", "cannot read"),
        ] {
            let told = NetworkKeyFile::open(path(name))
                .expect_err(name)
                .to_string();
            assert!(told.contains(word) && !told.contains("aaa"), "{told}");
        }
        let missing = NetworkKeyFile::open(path("missing")).expect("it may come");
        assert!(missing.keys.current().is_empty());
    }

    /// Kubernetes replaces a mounted Secret by renaming a symbolic link.
    #[tokio::test]
    async fn keys_follow_the_file_and_stay_when_it_is_of_no_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("network-key");
        let publish = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("written");
            let link = folder.path().join("new");
            symlink(name, &link).expect("linked");
            fs::rename(&link, &path).expect("renamed");
        };
        let file = NetworkKeyFile::open(path.clone()).expect("it may come");
        let (keyring, mut changes) = (file.keys.clone(), file.keys.changes());
        let watcher = tokio::spawn(file.clone().watch(register(&mut Registry::default())));
        let mut next = async |expected: &str| {
            let changed = tokio::time::timeout(GENEROUS, changes.changed()).await;
            changed.expect("a change").expect("it is watched");
            let (now, expected) = (keyring.current(), keys(expected));
            assert!(now.has_all(&expected) && expected.has_all(&now));
        };
        publish("first", &key("a"));
        next(&key("a")).await;
        let both = format!("{}\n{}", key("b"), key("a"));
        publish("second", &both);
        next(&both).await;
        watcher.abort();

        for found in [read(folder.path()), read(Path::new("/nowhere/at/all"))] {
            assert!(file.take(found).is_some());
            assert_eq!(file.keys.current().len(), 2);
        }
        assert!(file.take(Ok(Some(keys(&both)))).is_none());
    }
}
