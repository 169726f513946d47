//! Memory for bytes on their way to clients. One budget holds for the whole mirror, with a share for this node's own
//! clients that nobody else can use up.

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

/// Bytes read from a file at a time for a client that has taken many. Larger reads gain nothing measurable; smaller ones
/// cost CPU (4 KiB: eight times as much).
pub const LARGE_CHUNK: usize = 256 * 1024;
/// The same while memory for such chunks is scarce, and for any other client. A socket that takes bytes takes this many,
/// so they pass without being kept here.
pub const SMALL_CHUNK: usize = 16 * 1024;
/// KiB of chunks that pass: read, and not yet sent. They bound how many threads read at a time, too.
const OWN_PASSING_KIB: usize = 1024;
const OTHER_PASSING_KIB: usize = 2 * 1024;
/// KiB that clients may keep by not reading on: large chunks, objects read whole, buffers of relays.
const OWN_KEPT_KIB: usize = 16 * 1024;
const OTHER_KEPT_KIB: usize = 8 * 1024;
/// How long a chunk that passes may wait for memory. Only a disk that hangs makes it wait this long.
const PASSING_LIMIT: Duration = Duration::from_secs(10);
/// How long anything else may wait for it.
const KEPT_LIMIT: Duration = Duration::from_secs(1);
/// Large chunks begin at a page: to copy from the page cache to a few bytes after the start of a page takes a tenth more
/// CPU.
const PAGE: usize = 4096;
const LARGE_BUFFER: usize = LARGE_CHUNK + PAGE;
/// Large buffers that are kept for the next read.
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

/// What one kind of client may use, in KiB.
#[derive(Debug)]
pub struct Share {
    pub is_own: bool,
    passing: Arc<Semaphore>,
    kept: Arc<Semaphore>,
    most_kept: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

/// A part of the memory. Dropping it gives it back.
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

    /// Memory for bytes that a client may keep by not reading on. `None`: there is none for [`KEPT_LIMIT`].
    pub async fn keep(&self, bytes: u64) -> Option<MemoryPermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        let permit = self.kept.clone().acquire_many_owned(kib);
        timeout(KEPT_LIMIT, permit).await.ok()?.ok()
    }

    /// Memory for a read of `most` bytes or fewer. `takes_many`: the client has taken many, so the chunk is of
    /// [`LARGE_CHUNK`] if much is free. Else it is of [`SMALL_CHUNK`].
    ///
    /// # Errors
    /// There is none for [`PASSING_LIMIT`].
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

    /// A turn to read the disk for something else than a chunk. It counts as a small chunk, so that all of them bound how
    /// many threads read at a time.
    pub async fn turn(&self) -> io::Result<MemoryPermit> {
        let turn = self.passing.clone();
        let turn = turn.acquire_many_owned((SMALL_CHUNK / 1024) as u32).await;
        turn.map_err(io::Error::other)
    }

    /// KiB that clients may still keep.
    #[cfg(test)]
    pub fn free_to_keep(&self) -> usize {
        self.kept.available_permits()
    }

    /// KiB that are in use: those that pass, and those that clients keep.
    #[cfg(test)]
    pub fn in_use(&self, new: &Self) -> (usize, usize) {
        let used = |a: &Semaphore, b: &Semaphore| b.available_permits() - a.available_permits();
        (
            used(&self.passing, &new.passing),
            used(&self.kept, &new.kept),
        )
    }
}

/// Bytes on their way to a client, and the memory that they take until the last of them is sent.
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

    /// Fills it with bytes of a file. Reads the disk.
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
