//! The latest bytes of an object, for followers that are close behind, and the bytes that are not in its file yet, for
//! later followers. containerd writes in steps of 1 MiB. Without this buffer, every node of a chain would wait for each
//! step.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The most memory for the bytes that are kept. More than a step of containerd; a reader further behind reads the file.
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// A piece is charged this much on top of its bytes.
const PIECE_BYTES: usize = 64;
/// Pieces below this size are copied. A piece occupies all of the buffer that it was received in, which may be a hundred
/// times as large.
const COPIED_BELOW: usize = 16 * 1024;
/// The bytes of a block that pieces are copied into.
const BLOCK_BYTES: usize = 64 * 1024;

/// The latest bytes of an object being received. While there is no reader, those that are not in the file yet.
#[derive(Debug)]
pub struct TailBuffer {
    /// The places of buffers that keep bytes while there is no reader.
    places: Arc<Semaphore>,
    ring: Mutex<Ring>,
    /// The offset after the latest byte.
    end: watch::Sender<u64>,
}

/// Whether a buffer keeps bytes while there is no reader.
#[derive(Debug, Default)]
enum Place {
    /// That is decided with the first byte.
    #[default]
    Open,
    Taken {
        _permit: OwnedSemaphorePermit,
    },
    /// All were taken.
    Lacking,
    /// The pull has ended. Readers go on from the file.
    Over,
}

#[derive(Debug, Default)]
struct Ring {
    place: Place,
    readers: usize,
    /// The offset of the first byte kept.
    start: u64,
    end: u64,
    pieces: VecDeque<Piece>,
    /// The memory for the pieces, in bytes.
    charged: usize,
    /// The rest of the block that the last small pieces were copied into.
    block: BytesMut,
}

/// Bytes that arrived together.
#[derive(Debug)]
struct Piece {
    /// The offset after its last byte.
    end: u64,
    bytes: Bytes,
}

impl TailBuffer {
    pub fn new(places: Arc<Semaphore>) -> Self {
        Self {
            places,
            ring: Mutex::default(),
            end: watch::Sender::new(0),
        }
    }

    /// Whether bytes are kept while there is no reader.
    pub fn keeps(&self) -> bool {
        self.ring.lock().keeps()
    }

    /// Records bytes of the object.
    pub fn write(&self, offset: u64, bytes: &Bytes) {
        let mut ring = self.ring.lock();
        if matches!(ring.place, Place::Open) {
            let permit = self.places.clone().try_acquire_owned();
            ring.place = permit.map_or(Place::Lacking, |_permit| Place::Taken { _permit });
        }
        if bytes.is_empty() || !ring.is_needed() {
            return;
        }
        if ring.end != offset {
            ring.begin_at(offset);
        }
        ring.push(bytes);
        while ring.charged > MAX_BYTES {
            ring.drop_first();
        }
        let end = ring.end;
        drop(ring);
        self.end.send_replace(end);
    }

    /// Records that the file has the bytes up to this offset.
    pub fn written(&self, offset: u64) {
        let mut ring = self.ring.lock();
        let is_written = |ring: &Ring| ring.pieces.front().is_some_and(|first| first.end <= offset);
        while ring.readers == 0 && is_written(&ring) {
            ring.drop_first();
        }
    }

    /// Forgets all bytes: the object begins anew.
    pub fn clear(&self) {
        self.ring.lock().begin_at(0);
    }

    /// Gives up the memory: the pull has ended.
    pub fn end(&self) {
        let mut ring = self.ring.lock();
        ring.begin_at(0);
        ring.place = Place::Over;
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
    fn keeps(&self) -> bool {
        matches!(self.place, Place::Taken { .. })
    }

    fn is_needed(&self) -> bool {
        let is_over = matches!(self.place, Place::Over);
        self.keeps() || (self.readers > 0 && !is_over)
    }

    fn begin_at(&mut self, offset: u64) {
        *self = Self {
            place: std::mem::take(&mut self.place),
            readers: self.readers,
            start: offset,
            end: offset,
            ..Self::default()
        };
    }

    fn push(&mut self, bytes: &Bytes) {
        self.end += bytes.len() as u64;
        self.charged += bytes.len() + PIECE_BYTES;
        let bytes = if bytes.len() < COPIED_BELOW {
            self.copied(bytes)
        } else {
            bytes.clone()
        };
        let end = self.end;
        self.pieces.push_back(Piece { end, bytes });
    }

    fn copied(&mut self, bytes: &Bytes) -> Bytes {
        if self.block.capacity() < bytes.len() {
            self.block = BytesMut::with_capacity(BLOCK_BYTES);
        }
        self.block.extend_from_slice(bytes);
        self.block.split().freeze()
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.pieces.pop_front() {
            self.start = first.end;
            self.charged -= first.bytes.len() + PIECE_BYTES;
        }
    }

    /// The bytes at `offset`, as they arrived.
    fn read(&self, offset: u64) -> Option<Bytes> {
        if offset < self.start {
            return None;
        }
        let index = self.pieces.partition_point(|piece| piece.end <= offset);
        let piece = self.pieces.get(index)?;
        let rest = usize::try_from(piece.end - offset).ok()?;
        Some(piece.bytes.slice(piece.bytes.len() - rest..))
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
        if !ring.is_needed() {
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
        let reader = tail.reader();
        assert_eq!(kept(&reader), 0);
        tail.write(0, &chunk);
        assert_eq!(kept(&reader), 1);
        tail.end();
        assert_eq!(places.available_permits(), 1, "others need it");
        tail.write(100_000, &chunk);
        assert_eq!(kept(&reader), 0);
    }

    /// Each piece was received in a large buffer, which it would keep alive.
    #[test]
    fn small_pieces_take_little_memory() {
        struct Buffer(Arc<Semaphore>);
        impl AsRef<[u8]> for Buffer {
            fn as_ref(&self) -> &[u8] {
                &[7; 8192]
            }
        }
        impl Drop for Buffer {
            fn drop(&mut self) {
                self.0.add_permits(1);
            }
        }
        let freed = Arc::new(Semaphore::new(0));
        let tail = Arc::new(TailBuffer::new(Arc::new(Semaphore::new(1))));
        let pieces = 100_000;
        for offset in 0..pieces {
            let buffer = Bytes::from_owner(Buffer(freed.clone()));
            tail.write(offset, &buffer.slice(..1));
        }
        assert_eq!(
            freed.available_permits() as u64,
            pieces,
            "no buffer is kept"
        );
        let ring = tail.ring.lock();
        assert!(ring.charged <= MAX_BYTES && ring.pieces.len() <= MAX_BYTES / PIECE_BYTES);
        assert_eq!(ring.read(pieces - 2).as_deref(), Some(&[7][..]));
        assert_eq!(ring.read(ring.start).map(|bytes| bytes.len()), Some(1));
        assert_eq!((ring.read(ring.start - 1), ring.read(pieces)), (None, None));
    }
}
