//! Memory for bytes that are being sent to clients. There is one budget for the whole mirror, with a share for this
//! node's own clients that no others can use.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::request::Caller;

/// The bytes read from a file at a time for a client that has accepted many. Larger reads gain nothing measurable;
/// smaller ones cost CPU (4 KiB: eight times as much).
pub const LARGE_CHUNK: usize = 256 * 1024;
/// The same while memory for large chunks is scarce, and for any other client. A socket that accepts bytes accepts this
/// many, so they are not kept here.
pub const SMALL_CHUNK: usize = 16 * 1024;
/// The KiB of transient chunks: read, and not yet sent. They also bound how many threads read at a time.
const OWN_PASSING_KIB: usize = 1024;
const OTHER_PASSING_KIB: usize = 2 * 1024;
/// The KiB that clients may occupy by not reading: large chunks, objects read whole, buffers of relays.
const OWN_KEPT_KIB: usize = 16 * 1024;
const OTHER_KEPT_KIB: usize = 8 * 1024;
/// The limit of the wait of a transient chunk for memory. Only a blocked disk makes it wait this long.
const PASSING_LIMIT: Duration = Duration::from_secs(10);
/// The limit of any other wait for memory.
const KEPT_LIMIT: Duration = Duration::from_secs(1);
/// Large chunks begin at a page boundary: copying from the page cache to a few bytes after one takes a tenth more CPU.
const PAGE: usize = 4096;
const LARGE_BUFFER: usize = LARGE_CHUNK + PAGE;
/// The most large buffers kept for the next read.
const MAX_FREE_BUFFERS: usize = 4;

/// The memory of one mirror.
#[derive(Clone, Debug)]
pub struct SendMemory {
    pub own: Arc<Share>,
    pub others: Arc<Share>,
}

impl Default for SendMemory {
    fn default() -> Self {
        Self {
            own: Share::new(true, OWN_PASSING_KIB, OWN_KEPT_KIB),
            others: Share::new(false, OTHER_PASSING_KIB, OTHER_KEPT_KIB),
        }
    }
}

impl SendMemory {
    pub fn share(&self, caller: Caller) -> &Arc<Share> {
        match caller {
            Caller::Own => &self.own,
            Caller::Peer | Caller::Remote => &self.others,
        }
    }
}

/// The KiB that one kind of client may use.
#[derive(Debug)]
pub struct Share {
    pub is_own: bool,
    passing: Arc<Semaphore>,
    kept: Arc<Semaphore>,
    most_kept: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

/// A part of the memory. Dropping it releases it.
pub type MemoryPermit = OwnedSemaphorePermit;

impl Share {
    fn new(is_own: bool, passing: usize, kept: usize) -> Arc<Self> {
        Arc::new(Self {
            is_own,
            passing: Arc::new(Semaphore::new(passing)),
            kept: Arc::new(Semaphore::new(kept)),
            most_kept: kept,
            free: Mutex::default(),
        })
    }

    /// Memory for bytes that a client may occupy by not reading. `None`: none became free within [`KEPT_LIMIT`].
    pub async fn keep(&self, bytes: u64) -> Option<MemoryPermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        let permit = self.kept.clone().acquire_many_owned(kib);
        timeout(KEPT_LIMIT, permit).await.ok()?.ok()
    }

    /// Memory for a read of at most `most` bytes. `takes_many`: the client has accepted many, so the chunk is of
    /// [`LARGE_CHUNK`] if much memory is free. Otherwise it is of [`SMALL_CHUNK`].
    ///
    /// # Errors
    /// None became free within [`PASSING_LIMIT`].
    pub async fn chunk(self: &Arc<Self>, most: usize, takes_many: bool) -> io::Result<Chunk> {
        let is_ample = self.kept.available_permits() > self.most_kept / 2;
        if takes_many && most > SMALL_CHUNK && is_ample {
            let length = most.min(LARGE_CHUNK);
            let kib = length.div_ceil(1024) as u32;
            if let Ok(permit) = self.kept.clone().try_acquire_many_owned(kib) {
                let free = self.free.lock().pop();
                let buffer = free.unwrap_or_else(|| vec![0; LARGE_BUFFER]);
                let start = buffer.as_ptr().align_offset(PAGE).min(PAGE);
                let filled = start..start + length;
                return Ok(Chunk::new(buffer, filled, self.clone(), permit));
            }
        }
        let length = most.min(SMALL_CHUNK);
        let kib = length.div_ceil(1024) as u32;
        let permit = self.passing.clone().acquire_many_owned(kib);
        let permit = timeout(PASSING_LIMIT, permit).await.map_err(|_| {
            let text =
                format!("no memory to read content for {PASSING_LIMIT:?}; is the disk slow?");
            io::Error::new(io::ErrorKind::TimedOut, text)
        })?;
        let permit = permit.map_err(io::Error::other)?;
        Ok(Chunk::new(vec![0; length], 0..length, self.clone(), permit))
    }

    /// A permit to read the disk for anything but a chunk. It counts as a small chunk, so that all of them bound how
    /// many threads read at a time.
    pub async fn turn(&self) -> io::Result<MemoryPermit> {
        let turn = self.passing.clone();
        let turn = turn.acquire_many_owned((SMALL_CHUNK / 1024) as u32).await;
        turn.map_err(io::Error::other)
    }

    /// The KiB that clients may still occupy.
    #[cfg(test)]
    pub fn free_to_keep(&self) -> usize {
        self.kept.available_permits()
    }

    /// The KiB in use: of transient chunks, and of those that clients occupy.
    #[cfg(test)]
    pub fn in_use(&self, new: &Self) -> (usize, usize) {
        let used = |a: &Semaphore, b: &Semaphore| b.available_permits() - a.available_permits();
        (
            used(&self.passing, &new.passing),
            used(&self.kept, &new.kept),
        )
    }
}

/// Bytes to be sent to a client, and the memory that they occupy until the last of them is sent.
pub struct Chunk {
    buffer: Vec<u8>,
    filled: Range<usize>,
    share: Arc<Share>,
    _permit: MemoryPermit,
}

impl Chunk {
    pub fn new(
        buffer: Vec<u8>,
        filled: Range<usize>,
        share: Arc<Share>,
        permit: MemoryPermit,
    ) -> Self {
        Self {
            buffer,
            filled,
            share,
            _permit: permit,
        }
    }

    /// Fills the chunk with bytes of a file. Reads the disk.
    ///
    /// # Errors
    /// The file cannot be read, or ends before `offset`.
    pub fn read(mut self, file: &File, offset: u64) -> io::Result<Self> {
        let count = file.read_at(&mut self.buffer[self.filled.clone()], offset)?;
        self.filled.end = self.filled.start + count;
        match count {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(self),
        }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[self.filled.clone()]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if self.buffer.len() == LARGE_BUFFER {
            let mut free = self.share.free.lock();
            if free.len() < MAX_FREE_BUFFERS {
                free.push(std::mem::take(&mut self.buffer));
            }
        }
    }
}
