//! Reads ranges of files, including growing ones, piece by piece on blocking threads.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use oci::ByteRange;
use tokio::time::timeout;

use super::send_memory::Share;
use crate::object_stream::{BodyError, Pieces};
use crate::{Growing, IngestStage};

/// The bytes of a file after which a client gets large chunks: more than the kernels of both sides buffer for a client
/// that does not read.
const LARGE_AFTER: u64 = 256 * 1024;

/// The limit for a growing object's next byte. Its writer gives up much earlier; this is for dead writers.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// Waits for a growing object, but no longer than [`SILENCE_LIMIT`].
///
/// # Errors
/// The time is over, or the awaited operation has failed.
pub async fn unless_silent<T>(
    wait: impl Future<Output = Result<T, BodyError>>,
) -> Result<T, BodyError> {
    let waited = timeout(SILENCE_LIMIT, wait).await;
    waited.map_err(|_| BodyError::Silent)?
}

/// Reads an object from any offset.
pub trait RangeReader: Send + Sized + 'static {
    /// The first bytes of the range, which is not empty.
    fn next(&mut self, range: &ByteRange) -> impl Future<Output = Result<Bytes, BodyError>> + Send;

    /// The bytes of the range.
    fn pieces(self, range: ByteRange) -> Pieces {
        let pieces = stream::try_unfold((self, range), |(mut reader, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let bytes = reader.next(&range).await?;
            let rest = range.start + bytes.len() as u64..range.end;
            Ok(Some((bytes, (reader, rest))))
        });
        pieces.boxed()
    }
}

/// Reads a file in chunks that grow with the bytes that the client has accepted. Each is read when the previous one has
/// been sent.
pub struct FileReader {
    file: Arc<File>,
    share: Arc<Share>,
    taken: u64,
}

impl FileReader {
    pub fn new(file: Arc<File>, share: Arc<Share>) -> Self {
        let taken = 0;
        Self { file, share, taken }
    }

    /// The first bytes of the range, at most a chunk.
    pub async fn read(&mut self, range: &ByteRange) -> io::Result<Bytes> {
        let offset = range.start;
        let most = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
        let chunk = self.share.chunk(most, self.taken >= LARGE_AFTER).await?;
        let file = self.file.clone();
        let chunk = tokio::task::spawn_blocking(move || chunk.read(&file, offset))
            .await
            .map_err(io::Error::other)??;
        let bytes = Bytes::from_owner(chunk);
        self.taken += bytes.len() as u64;
        Ok(bytes)
    }
}

impl RangeReader for FileReader {
    async fn next(&mut self, range: &ByteRange) -> Result<Bytes, BodyError> {
        Ok(self.read(range).await?)
    }
}

/// Reads a file that is still being written.
pub struct GrowingReader {
    growing: Growing,
    file: FileReader,
}

impl GrowingReader {
    pub fn new(growing: Growing, share: Arc<Share>) -> Self {
        let file = FileReader::new(growing.file().clone(), share);
        Self { growing, file }
    }

    pub fn is_complete(&self) -> bool {
        self.growing.progress().stage == IngestStage::Complete
    }

    /// Waits until there is a byte at `offset`. Returns the size of the file by then. Cancel-safe.
    ///
    /// # Errors
    /// There will be none.
    pub async fn grown(&mut self, offset: u64) -> Result<u64, BodyError> {
        let has_grown = |p: &crate::Progress| p.written > offset || p.stage != IngestStage::Filling;
        let written = self.growing.until(has_grown).await.written;
        // The bytes of a failed writer are as unverified as all that was sent before; they are sent as well.
        if written > offset {
            Ok(written)
        } else {
            Err(BodyError::Stunted { written })
        }
    }

    /// The first bytes of the range, in a file of `written` bytes.
    pub async fn read(&mut self, range: &ByteRange, written: u64) -> Result<Bytes, BodyError> {
        let range = range.start..range.end.min(written);
        Ok(self.file.read(&range).await?)
    }
}

impl RangeReader for GrowingReader {
    async fn next(&mut self, range: &ByteRange) -> Result<Bytes, BodyError> {
        let written = unless_silent(self.grown(range.start)).await?;
        self.read(range, written).await
    }
}
