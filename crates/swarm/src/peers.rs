//! Peers remembered over restarts, so that a node finds the cluster when its bootstrap source is down.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::bootstrap::Seed;

const FILE: &str = "peers.json";
/// The most peers kept in the file.
pub(crate) const MAX_PEERS: usize = 64;
/// The most addresses kept of each peer.
const MAX_ADDRESSES: usize = 4;
/// The most bytes of the file.
const MAX_FILE: u64 = 64 * 1024;
/// The interval between writes.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Remembered {
    id: String,
    addresses: Vec<SocketAddr>,
}

impl Remembered {
    pub(crate) fn new(id: &PeerId, addresses: &[SocketAddr]) -> Self {
        Self {
            id: id.to_string(),
            addresses: addresses.iter().copied().take(MAX_ADDRESSES).collect(),
        }
    }

    pub(crate) fn seeds(&self) -> impl Iterator<Item = Seed> {
        let id = self.id.parse().ok();
        let addresses = self.addresses.iter().take(MAX_ADDRESSES);
        addresses.map(move |socket| Seed {
            id,
            socket: *socket,
        })
    }
}

/// The remembered peers. Unreadable ones are left out: the file is only a convenience.
pub(crate) fn load(data_dir: &Path) -> Vec<Remembered> {
    let path = data_dir.join(FILE);
    let read = || -> io::Result<Vec<Remembered>> {
        let file = io::Read::take(fs::File::open(&path)?, MAX_FILE);
        Ok(serde_json::from_reader(io::BufReader::new(file))?)
    };
    match read() {
        Ok(mut peers) => {
            peers.truncate(MAX_PEERS);
            peers
        }
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                let path = path.display();
                tracing::warn!(%error, %path, "cannot read remembered peers; doing without");
            }
            Vec::new()
        }
    }
}

/// The peers of both lists, each from the first list that has it.
pub(crate) fn merge(newer: &[Remembered], older: &[Remembered]) -> Vec<Remembered> {
    let only_older = |peer: &&Remembered| newer.iter().all(|newer| newer.id != peer.id);
    newer
        .iter()
        .chain(older.iter().filter(only_older))
        .cloned()
        .collect()
}

/// Writes the file whole or not at all.
fn save(data_dir: &Path, peers: &[Remembered]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
    serde_json::to_writer(&mut file, peers)?;
    file.flush()?;
    file.persist(data_dir.join(FILE))?;
    Ok(())
}

/// Writes the peers to disk from time to time, and a last time when the node has ended.
pub(crate) async fn keep(data_dir: PathBuf, mut peers: watch::Receiver<Vec<Remembered>>) {
    let mut last = Vec::new();
    loop {
        let ended = async { while peers.changed().await.is_ok() {} };
        let stopped = timeout(SAVE_INTERVAL, ended).await.is_ok();
        let now = peers.borrow().clone();
        if now != last {
            let (folder, list) = (data_dir.clone(), now.clone());
            match spawn_blocking(move || save(&folder, &list)).await {
                Ok(Ok(())) => last = now,
                Ok(Err(error)) => {
                    let path = data_dir.join(FILE);
                    tracing::warn!(%error, path = %path.display(), "cannot write down the peers");
                }
                // The runtime is shutting down.
                Err(_) => return,
            }
        }
        if stopped {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(load(folder.path()).is_empty());
        let id = PeerId::random();
        let socket: SocketAddr = "10.0.0.1:5001".parse().expect("an address");
        let peers = vec![Remembered::new(&id, &[socket; 9]); MAX_PEERS + 1];
        save(folder.path(), &peers).expect("writable");
        let loaded = load(folder.path());
        assert_eq!(loaded, peers[..MAX_PEERS]);
        let seeds: Vec<_> = loaded[0].seeds().collect();
        let expected = Seed {
            id: Some(id),
            socket,
        };
        assert_eq!(seeds, [expected; MAX_ADDRESSES]);
    }

    #[test]
    fn newer_addresses_of_a_peer_win() {
        let (moved, gone, new) = (PeerId::random(), PeerId::random(), PeerId::random());
        let at = |id, port| Remembered::new(id, &[([10, 0, 0, 1], port).into()]);
        let merged = merge(
            &[at(&moved, 2), at(&new, 3)],
            &[at(&gone, 4), at(&moved, 1)],
        );
        assert_eq!(merged, [at(&moved, 2), at(&new, 3), at(&gone, 4)]);
    }

    #[test]
    fn a_broken_file_is_no_peer() {
        let folder = tempfile::tempdir().expect("a folder");
        for broken in [
            "",
            "{",
            "[{\"id\":1}]",
            "[{\"id\":\"x\",\"addresses\":[\"y\"]}]",
        ] {
            fs::write(folder.path().join(FILE), broken).expect("writable");
            assert!(load(folder.path()).is_empty());
        }
    }
}
