//! The changes in the content folder, as reported by inotify.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use inotify::{Event, EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use oci::Digest;

use crate::blobs;

/// The bytes for events read at once, about a hundred events.
const BUFFER: usize = 16 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Appeared(Digest),
    Vanished(Digest),
    /// Changes were missed: everything must be listed again.
    Unknown,
}

#[derive(Clone, Copy)]
enum Folder {
    /// The parent of the content folder, watched while that does not exist.
    Parent,
    Content,
    Blobs,
    /// The folder `blobs/<algorithm>`.
    Algorithm(&'static str),
}

/// Watches the folders of blobs, including those that containerd creates later: from 1.7 on it creates even the content
/// folder with the first ingest.
pub(crate) struct Watch {
    content: PathBuf,
    events: EventStream<Vec<u8>>,
    folders: HashMap<WatchDescriptor, Folder>,
}

impl Watch {
    /// Starts the watch. Later changes will be reported.
    ///
    /// # Errors
    /// The folder is not readable, or neither it nor its parent exists, or the node's limits for inotify are reached.
    pub fn open(content: &Path) -> io::Result<Self> {
        let events = Inotify::init()?.into_event_stream(vec![0; BUFFER])?;
        let mut watch = Self {
            content: content.to_owned(),
            events,
            folders: HashMap::new(),
        };
        watch.add_present()?;
        Ok(watch)
    }

    /// The next change. Dropping the future loses none.
    ///
    /// # Errors
    /// The content folder and its parent are gone.
    pub async fn next(&mut self) -> io::Result<Change> {
        loop {
            let Some(event) = self.events.next().await else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            if let Some(change) = self.change(&event?)? {
                return Ok(change);
            }
        }
    }

    fn change(&mut self, event: &Event<std::ffi::OsString>) -> io::Result<Option<Change>> {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return Ok(Some(Change::Unknown));
        }
        let Some(folder) = self.folders.get(&event.wd).copied() else {
            return Ok(None);
        };
        if event.mask.intersects(GONE) {
            self.folders.remove(&event.wd);
            self.add_present()?;
            return Ok(Some(Change::Unknown));
        }
        let name = event.name.as_ref().and_then(|n| n.to_str());
        let Folder::Algorithm(algorithm) = folder else {
            if event.mask.intersects(CAME) && self.is_ours(folder, name) {
                self.add_present()?;
                return Ok(Some(Change::Unknown));
            }
            return Ok(None);
        };
        let Some(digest) = blobs::digest(algorithm, name) else {
            return Ok(None);
        };
        Ok(Some(if event.mask.intersects(CAME) {
            Change::Appeared(digest)
        } else {
            Change::Vanished(digest)
        }))
    }

    /// Whether an entry of this name in a folder is to be watched.
    fn is_ours(&self, folder: Folder, name: Option<&str>) -> bool {
        match folder {
            Folder::Parent => name == self.content.file_name().and_then(|n| n.to_str()),
            Folder::Content => name == Some("blobs"),
            Folder::Blobs | Folder::Algorithm(_) => true,
        }
    }

    /// Watches the existing folders. Adding one again changes nothing.
    fn add_present(&mut self) -> io::Result<()> {
        if !self.add(Folder::Content)? {
            // If it is created now, the parent reports it, or the second check finds it.
            if !self.add(Folder::Parent)? {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.add(Folder::Content)?;
        }
        self.add(Folder::Blobs)?;
        for algorithm in Digest::ALGORITHMS {
            self.add(Folder::Algorithm(algorithm))?;
        }
        Ok(())
    }

    /// Watches a folder. Returns whether it exists.
    fn add(&mut self, folder: Folder) -> io::Result<bool> {
        let path = match folder {
            Folder::Parent => match self.content.parent() {
                Some(parent) => parent.to_owned(),
                None => return Ok(false),
            },
            Folder::Content => self.content.clone(),
            Folder::Blobs => self.content.join("blobs"),
            Folder::Algorithm(algorithm) => blobs::folder(&self.content, algorithm),
        };
        let mask = WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        match self.events.watches().add(path, mask) {
            Ok(descriptor) => {
                self.folders.insert(descriptor, folder);
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The event mask of a new name.
const CAME: EventMask = EventMask::CREATE.union(EventMask::MOVED_TO);
/// The event mask of a watched folder that was moved or removed.
const GONE: EventMask = EventMask::IGNORED
    .union(EventMask::DELETE_SELF)
    .union(EventMask::MOVE_SELF)
    .union(EventMask::UNMOUNT);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn next(watch: &mut Watch) -> Change {
        tokio::time::timeout(Duration::from_secs(20), watch.next())
            .await
            .expect("told in time")
            .expect("watched")
    }

    async fn until(watch: &mut Watch, change: &Change) {
        while next(watch).await != *change {}
    }

    #[tokio::test]
    async fn tells_of_blobs_that_come_and_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let content = folder.path();
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let blobs = blobs::folder(content, "sha256");
        std::fs::create_dir_all(&blobs).expect("a folder");
        let mut watch = Watch::open(content).expect("watched");
        let data = content.join("data");
        std::fs::write(&data, "a").expect("a file");
        std::fs::rename(&data, blobs.join(a.encoded())).expect("committed");
        assert_eq!(next(&mut watch).await, Change::Appeared(a.clone()));
        std::fs::write(blobs.join("not-a-blob"), "").expect("a file");
        std::fs::write(blobs.join(b.encoded()), "b").expect("a file");
        assert_eq!(next(&mut watch).await, Change::Appeared(b.clone()));
        std::fs::remove_file(blobs.join(a.encoded())).expect("removed");
        assert_eq!(next(&mut watch).await, Change::Vanished(a));
        std::fs::rename(blobs.join(b.encoded()), &data).expect("moved");
        assert_eq!(next(&mut watch).await, Change::Vanished(b));
    }

    #[tokio::test]
    async fn follows_folders_that_are_made_and_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("root");
        let content = &root.join("content");
        let digest = Digest::sha256(b"a");
        let blobs = blobs::folder(content, "sha256");
        assert!(Watch::open(content).is_err(), "nothing is mounted");
        std::fs::create_dir(&root).expect("a folder");
        let mut watch = Watch::open(content).expect("watched");
        for _ in 0..2 {
            std::fs::create_dir_all(&blobs).expect("a folder");
            assert_eq!(next(&mut watch).await, Change::Unknown);
            // Only `blobs` may have been reported yet: wait until its contents are.
            let told = async {
                loop {
                    std::fs::write(blobs.join(digest.encoded()), "").expect("a file");
                    let change =
                        tokio::time::timeout(Duration::from_millis(50), watch.next()).await;
                    if let Ok(Ok(Change::Appeared(_))) = change {
                        break;
                    }
                    let _ = std::fs::remove_file(blobs.join(digest.encoded()));
                }
            };
            tokio::time::timeout(Duration::from_secs(20), told)
                .await
                .expect("told in time");
            std::fs::remove_dir_all(content).expect("removed");
            until(&mut watch, &Change::Unknown).await;
        }
        std::fs::remove_dir(root).expect("removed");
        let gone = async { while watch.next().await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(20), gone)
            .await
            .expect("the end is told");
    }
}
