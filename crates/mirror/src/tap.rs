//! What has just come of an object and is not in its file yet, for those who follow closely: containerd writes in steps
//! of 1 MiB, which every node of a chain would wait for again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Bytes kept for readers. More than a step of containerd's: whoever is further behind than these reads the file.
const MOST_BYTES: u64 = 2 * 1024 * 1024;

/// The latest bytes of an object on its way. Nothing is kept while nobody reads.
#[derive(Debug)]
pub struct Tap {
    ring: Mutex<Ring>,
    /// Where in the object the latest byte ends.
    end: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    readers: usize,
    /// Where in the object the first byte that is kept lies.
    start: u64,
    end: u64,
    chunks: VecDeque<Bytes>,
}

impl Default for Tap {
    fn default() -> Self {
        Self {
            ring: Mutex::default(),
            end: watch::Sender::new(0),
        }
    }
}

impl Tap {
    /// These bytes of the object have come.
    pub fn write(&self, offset: u64, bytes: &Bytes) {
        let mut ring = self.ring.lock();
        if ring.readers == 0 || bytes.is_empty() {
            return;
        }
        if ring.end != offset {
            ring.begin_at(offset);
        }
        ring.end += bytes.len() as u64;
        ring.chunks.push_back(bytes.clone());
        while ring.end - ring.start > MOST_BYTES
            && let Some(first) = ring.chunks.pop_front()
        {
            ring.start += first.len() as u64;
        }
        let end = ring.end;
        drop(ring);
        self.end.send_replace(end);
    }

    pub fn reader(self: &Arc<Self>) -> TapReader {
        self.ring.lock().readers += 1;
        TapReader {
            tap: self.clone(),
            end: self.end.subscribe(),
        }
    }
}

impl Ring {
    fn begin_at(&mut self, offset: u64) {
        self.chunks.clear();
        (self.start, self.end) = (offset, offset);
    }

    /// Bytes that begin at `offset`, as they came.
    fn read(&self, offset: u64) -> Option<Bytes> {
        if !(self.start..self.end).contains(&offset) {
            return None;
        }
        let mut at = self.start;
        for chunk in &self.chunks {
            let next = at + chunk.len() as u64;
            if offset < next {
                return Some(chunk.slice((offset - at) as usize..));
            }
            at = next;
        }
        None
    }
}

/// A reader's end. Dropping the last one frees what is kept.
#[derive(Debug)]
pub struct TapReader {
    tap: Arc<Tap>,
    end: watch::Receiver<u64>,
}

impl TapReader {
    /// Bytes that begin at `offset`, if they are kept.
    pub fn read(&self, offset: u64) -> Option<Bytes> {
        self.tap.ring.lock().read(offset)
    }

    /// Waits until there is something newer than at the last call.
    pub async fn wait(&mut self) {
        // The tap lives as long as this does.
        let _ = self.end.changed().await;
    }
}

impl Clone for TapReader {
    fn clone(&self) -> Self {
        self.tap.reader()
    }
}

impl Drop for TapReader {
    fn drop(&mut self) {
        let mut ring = self.tap.ring.lock();
        ring.readers -= 1;
        if ring.readers == 0 {
            ring.begin_at(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_the_latest_for_those_who_read() {
        let tap = Arc::new(Tap::default());
        tap.write(0, &Bytes::from_static(b"nobody reads"));
        let mut reader = tap.reader();
        assert_eq!(reader.read(0), None);
        tap.write(12, &Bytes::from_static(b"abc"));
        tap.write(15, &Bytes::from_static(b"def"));
        reader.wait().await;
        assert_eq!(reader.read(13).as_deref(), Some(&b"bc"[..]));
        assert_eq!(reader.read(15).as_deref(), Some(&b"def"[..]));
        assert_eq!((reader.read(18), reader.read(11)), (None, None));
        // Another request for the object, from another place on.
        tap.write(100, &Bytes::from_static(b"x"));
        assert_eq!(reader.read(15), None);
        assert_eq!(reader.read(100).as_deref(), Some(&b"x"[..]));
        drop(reader);
        assert_eq!(tap.reader().read(100), None, "nothing was kept");
    }

    #[test]
    fn keeps_no_more_than_it_may() {
        let tap = Arc::new(Tap::default());
        let reader = tap.reader();
        let chunk = Bytes::from(vec![7; 100_000]);
        for n in 0..100 {
            tap.write(n * 100_000, &chunk);
        }
        let kept = (0..100).filter(|n| reader.read(n * 100_000).is_some());
        assert_eq!(kept.count(), 20);
    }
}
