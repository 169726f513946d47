//! The latest bytes of an object, for followers that are close behind, and the bytes that are not in its file yet, for
//! later followers. containerd writes in steps of 1 MiB. Without this buffer, every node of a chain would wait for each
//! step.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The most bytes to keep. More than a step of containerd; a reader further behind reads the file.
const MAX_BYTES: u64 = 2 * 1024 * 1024;

/// The latest bytes of an object being received. While there is no reader, those that are not in the file yet.
#[derive(Debug)]
pub struct TailBuffer {
    /// The places of buffers that keep bytes while there is no reader, and this buffer's own, taken with the first byte.
    places: Arc<Semaphore>,
    place: OnceLock<Option<OwnedSemaphorePermit>>,
    ring: Mutex<Ring>,
    /// The offset after the latest byte.
    end: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    readers: usize,
    /// The offset of the first byte kept.
    start: u64,
    end: u64,
    chunks: VecDeque<Bytes>,
}

impl TailBuffer {
    pub fn new(places: Arc<Semaphore>) -> Self {
        Self {
            places,
            place: OnceLock::new(),
            ring: Mutex::default(),
            end: watch::Sender::new(0),
        }
    }

    /// Whether bytes are kept while there is no reader.
    pub fn keeps(&self) -> bool {
        self.place.get().is_some_and(Option::is_some)
    }

    /// Records bytes of the object.
    pub fn write(&self, offset: u64, bytes: &Bytes) {
        let take = || self.places.clone().try_acquire_owned().ok();
        let keeps = self.place.get_or_init(take).is_some();
        let mut ring = self.ring.lock();
        if bytes.is_empty() || (ring.readers == 0 && !keeps) {
            return;
        }
        if ring.end != offset {
            ring.begin_at(offset);
        }
        ring.end += bytes.len() as u64;
        ring.chunks.push_back(bytes.clone());
        while ring.end - ring.start > MAX_BYTES {
            ring.drop_first();
        }
        let end = ring.end;
        drop(ring);
        self.end.send_replace(end);
    }

    /// Records that the file has the bytes up to this offset.
    pub fn written(&self, offset: u64) {
        let mut ring = self.ring.lock();
        let is_written = |ring: &Ring| {
            let first = ring.chunks.front();
            first.is_some_and(|first| ring.start + first.len() as u64 <= offset)
        };
        while ring.readers == 0 && is_written(&ring) {
            ring.drop_first();
        }
    }

    /// Forgets all bytes: the object begins anew.
    pub fn clear(&self) {
        self.ring.lock().begin_at(0);
    }

    pub fn reader(self: &Arc<Self>) -> TailReader {
        self.ring.lock().readers += 1;
        TailReader {
            tail: self.clone(),
            end: self.end.subscribe(),
        }
    }
}

impl Ring {
    fn begin_at(&mut self, offset: u64) {
        self.chunks.clear();
        (self.start, self.end) = (offset, offset);
    }

    fn drop_first(&mut self) {
        let first = self.chunks.pop_front();
        self.start += first.map_or(0, |first| first.len() as u64);
    }

    /// The bytes at `offset`, as they arrived.
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

/// A reader.
#[derive(Debug)]
pub struct TailReader {
    tail: Arc<TailBuffer>,
    end: watch::Receiver<u64>,
}

impl TailReader {
    /// Bytes that begin at `offset`, if they are kept.
    pub fn read(&self, offset: u64) -> Option<Bytes> {
        self.tail.ring.lock().read(offset)
    }

    /// Waits until bytes have arrived since the last call.
    pub async fn wait(&mut self) {
        // The buffer lives as long as its reader.
        let _ = self.end.changed().await;
    }
}

impl Clone for TailReader {
    fn clone(&self) -> Self {
        self.tail.reader()
    }
}

impl Drop for TailReader {
    fn drop(&mut self) {
        let mut ring = self.tail.ring.lock();
        ring.readers -= 1;
        if ring.readers == 0 && !self.tail.keeps() {
            ring.begin_at(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_the_latest_for_those_who_read() {
        let tail = Arc::new(TailBuffer::new(Arc::new(Semaphore::new(0))));
        tail.write(0, &Bytes::from_static(b"nobody reads"));
        let mut reader = tail.reader();
        assert_eq!(reader.read(0), None);
        tail.write(12, &Bytes::from_static(b"abc"));
        tail.write(15, &Bytes::from_static(b"def"));
        reader.wait().await;
        assert_eq!(reader.read(13).as_deref(), Some(&b"bc"[..]));
        assert_eq!(reader.read(15).as_deref(), Some(&b"def"[..]));
        assert_eq!((reader.read(18), reader.read(11)), (None, None));
        // Another request for the object, from another offset.
        tail.write(100, &Bytes::from_static(b"x"));
        assert_eq!(reader.read(15), None);
        assert_eq!(reader.read(100).as_deref(), Some(&b"x"[..]));
        drop(reader);
        assert_eq!(tail.reader().read(100), None, "nothing was kept");
    }

    #[test]
    fn keeps_no_more_than_it_may() {
        let places = Arc::new(Semaphore::new(1));
        let tail = Arc::new(TailBuffer::new(places.clone()));
        let chunk = Bytes::from(vec![7; 100_000]);
        for n in 0..100 {
            tail.write(n * 100_000, &chunk);
        }
        let kept = |reader: &TailReader| {
            let kept = (0..100).filter(|n| reader.read(n * 100_000).is_some());
            kept.count()
        };
        let reader = tail.reader();
        tail.written(9_950_000);
        assert_eq!(kept(&reader), 20, "there is a reader");
        drop(reader);
        tail.written(9_950_000);
        assert_eq!(kept(&tail.reader()), 1, "half of it is written");
        assert!(tail.keeps() && places.available_permits() == 0);
        tail.clear();
        assert_eq!(kept(&tail.reader()), 0);
        drop(tail);
        assert_eq!(places.available_permits(), 1);
    }
}
