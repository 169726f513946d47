//! An object's bytes as they arrive: from the store's file while that grows, otherwise directly from a source. A client
//! must not notice that the store could not keep them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use oci::ByteRange;
use tokio::time::timeout;

use super::sources::{Opened, SourceError, Sources, Transfer, rest};
use crate::body::read::FileReader;
use crate::body::send_memory::Share;
use crate::object_stream::{BodyError, ObjectStream, Pieces};
use crate::refusal::Refusal;
use crate::{Growing, IngestStage};

/// The limit of the wait for the store's file while it does not grow. Its writer gives up earlier; this is for a writer
/// that is stuck.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    #[error("no source can go on at byte {offset}: {source}")]
    Interrupted { offset: u64, source: SourceError },
    #[error("reading the store's file")]
    Read(#[from] std::io::Error),
}

/// The content for a client of an object that was not here at its request.
pub struct Download {
    sources: Arc<Sources>,
    /// The store's file.
    growing: Option<Growing>,
    /// A source that is open already, for a reader that begins at its offset.
    opened: Option<Opened>,
    /// The size of the whole object in bytes, if known.
    size: Option<u64>,
}

/// A reader of one range of it.
struct Reader {
    download: Download,
    file: Option<FileReader>,
    transfer: Option<Transfer>,
    offset: u64,
    end: Option<u64>,
}

impl Download {
    /// An object that the store is taking in.
    pub fn of_store(sources: Arc<Sources>, growing: Growing, size: Option<u64>) -> Self {
        Self {
            sources,
            growing: Some(growing),
            opened: None,
            size,
        }
    }

    /// An object that is not kept.
    pub fn of_source(sources: Arc<Sources>, opened: Opened, size: Option<u64>) -> Self {
        Self {
            sources,
            growing: None,
            opened: Some(opened),
            size,
        }
    }
}

/// If the size of the object is unknown, a range ends with the object.
impl ObjectStream for Download {
    fn stream(self: Box<Self>, range: ByteRange, share: Arc<Share>) -> Pieces {
        let reader = Reader {
            file: self
                .growing
                .as_ref()
                .map(|growing| FileReader::new(growing.file().clone(), share)),
            transfer: None,
            offset: range.start,
            end: self.size.map(|size| range.end.min(size)),
            download: *self,
        };
        let pieces = stream::try_unfold(reader, |mut reader| async move {
            let next = reader.next().await?;
            Ok(next.map(|bytes| (bytes, reader)))
        });
        pieces
            .map_err(|error: DownloadError| BodyError::of_stream(error))
            .boxed()
    }

    fn again(&self) -> Box<dyn ObjectStream> {
        Box::new(Self {
            sources: self.sources.clone(),
            growing: self.growing.clone(),
            opened: None,
            size: self.size,
        })
    }

    fn takes_memory(&self) -> bool {
        true
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, DownloadError> {
        if self.end.is_some_and(|end| self.offset >= end) {
            return Ok(None);
        }
        if let (Some(growing), Some(file)) = (&mut self.download.growing, &mut self.file) {
            let offset = self.offset;
            let grown = growing.until(|p| p.written > offset || p.stage != IngestStage::Filling);
            let progress = timeout(SILENCE_LIMIT, grown).await;
            match progress {
                Ok(progress) if progress.written > offset => {
                    let end = self.end.unwrap_or(u64::MAX).min(progress.written);
                    let bytes = file.read(&(offset..end)).await?;
                    self.offset += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(progress) if progress.stage == IngestStage::Complete => return Ok(None),
                // The store has failed, or its writer is gone.
                Ok(_) | Err(_) => self.download.growing = None,
            }
        }
        self.next_of_source().await
    }

    async fn next_of_source(&mut self) -> Result<Option<Bytes>, DownloadError> {
        let offset = self.offset;
        let interrupted = |source| DownloadError::Interrupted { offset, source };
        let transfer = match &mut self.transfer {
            Some(transfer) => transfer,
            None => {
                let open = self.download.opened.take();
                let opened = match open.filter(|opened| opened.offset == offset) {
                    Some(opened) => opened,
                    None => {
                        let end = self.end.filter(|_| self.end != self.download.size);
                        let rest = rest(offset, end);
                        match self.download.sources.open(rest.as_ref()).await {
                            Ok(opened) if opened.offset == offset => opened,
                            Ok(_) => return Err(interrupted(SourceError::Short(offset))),
                            // The size was unknown, and is reached.
                            Err(Refusal::Unsatisfiable { .. }) if self.end.is_none() => {
                                return Ok(None);
                            }
                            Err(refusal) => return Err(interrupted(refusal.into())),
                        }
                    }
                };
                let sources = self.download.sources.clone();
                self.transfer
                    .insert(Transfer::new(sources, opened, self.end))
            }
        };
        let bytes = transfer.next().await.map_err(interrupted)?;
        self.offset += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        Ok(bytes)
    }
}
