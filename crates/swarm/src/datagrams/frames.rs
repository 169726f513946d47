//! Datagrams on a stream: each is its length, four bytes big-endian, and its bytes.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::{AsyncRead, AsyncWrite};

use super::MAX_LEN;

/// The bytes of the length.
const HEAD: usize = size_of::<u32>();
/// The most bytes written at once: small datagrams that wait are sent together.
const WRITE_BATCH: usize = 16 * 1024;
/// The most bytes read at first: most datagrams are read whole, and memory for a long one is allocated only as it
/// arrives.
const MIN_READ: usize = 512;
const READ_BATCH: usize = 4 * 1024;

#[derive(Debug)]
pub(super) struct Writer<S> {
    stream: S,
    buf: BytesMut,
    is_flushed: bool,
}

impl<S: AsyncWrite + Unpin> Writer<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            buf: BytesMut::new(),
            is_flushed: true,
        }
    }

    /// Writes all of `queue`. Ready once nothing is left.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.buf.len() < WRITE_BATCH
                && let Some(datagram) = queue.pop_front()
            {
                // The reader refuses one that is too long.
                self.buf
                    .put_u32(u32::try_from(datagram.len()).unwrap_or(u32::MAX));
                self.buf.put_slice(&datagram);
            }
            if self.buf.is_empty() {
                break;
            }
            self.is_flushed = false;
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buf))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buf.advance(written);
        }
        if !self.is_flushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_flushed = true;
            // Most streams are idle most of the time.
            self.buf = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug)]
pub(super) struct Reader<S> {
    stream: S,
    buf: BytesMut,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            buf: BytesMut::new(),
        }
    }

    /// The next datagram; `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// The stream broke, ended within a datagram, or announces one that is too long.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            let missing = match self.missing()? {
                0 => {
                    let len = self.buf.get_u32() as usize;
                    let datagram = self.buf.split_to(len).freeze();
                    return Poll::Ready(Ok(Some(datagram)));
                }
                missing => missing,
            };
            let held = self.buf.len();
            self.buf
                .resize(held + missing.clamp(MIN_READ, READ_BATCH), 0);
            let room = self.buf.get_mut(held..).unwrap_or_default();
            let read = Pin::new(&mut self.stream).poll_read(cx, room);
            let filled = match &read {
                Poll::Ready(Ok(count)) => *count,
                Poll::Ready(Err(_)) | Poll::Pending => 0,
            };
            self.buf.truncate(held + filled);
            if self.buf.is_empty() {
                self.buf = BytesMut::new();
            }
            if ready!(read)? == 0 {
                return Poll::Ready(match held {
                    0 => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            }
        }
    }

    /// The bytes missing for the next datagram, as far as known.
    fn missing(&self) -> io::Result<usize> {
        let Some(head) = self.buf.first_chunk::<HEAD>() else {
            return Ok(HEAD - self.buf.len());
        };
        let len = u32::from_be_bytes(*head) as usize;
        if len > MAX_LEN {
            let why = format!("a datagram of {len} bytes, more than {MAX_LEN}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok((HEAD + len).saturating_sub(self.buf.len()))
    }
}

/// Reads a stream to its end or its first fault.
#[cfg(feature = "fuzzing")]
pub(crate) async fn read_all(stream: impl AsyncRead + Unpin) {
    let mut reader = Reader::new(stream);
    while let Ok(Some(datagram)) = std::future::poll_fn(|cx| reader.poll_next(cx)).await {
        assert!(datagram.len() <= MAX_LEN);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt as _;
    use futures::io::Cursor;
    use proptest::prelude::*;

    use super::*;

    /// The datagrams in a stream of these bytes, until it ends or breaks.
    fn read(bytes: &[u8]) -> (Vec<Bytes>, io::Result<()>) {
        let mut reader = Reader::new(Cursor::new(bytes));
        let mut datagrams = Vec::new();
        loop {
            let next = poll_fn(|cx| reader.poll_next(cx)).now_or_never();
            match next.expect("a cursor never waits") {
                Ok(Some(datagram)) => datagrams.push(datagram),
                Ok(None) => return (datagrams, Ok(())),
                Err(error) => return (datagrams, Err(error)),
            }
        }
    }

    fn written(datagrams: &[Bytes]) -> Vec<u8> {
        let mut writer = Writer::new(Cursor::new(Vec::new()));
        let mut queue = datagrams.iter().cloned().collect();
        let done = poll_fn(|cx| writer.poll_write(cx, &mut queue)).now_or_never();
        done.expect("a cursor never waits")
            .expect("a cursor takes all");
        assert!(queue.is_empty());
        writer.stream.into_inner()
    }

    #[test]
    fn a_length_that_is_too_high_ends_the_stream() {
        let mut bytes = written(&[Bytes::from_static(b"sound")]);
        bytes.extend((MAX_LEN as u32 + 1).to_be_bytes());
        let (datagrams, end) = read(&bytes);
        assert_eq!(datagrams, ["sound"]);
        assert_eq!(end.map_err(|e| e.kind()), Err(io::ErrorKind::InvalidData));
        assert_eq!(
            read(&[0, 0, 0, 2, 7]).1.map_err(|e| e.kind()),
            Err(io::ErrorKind::UnexpectedEof)
        );
        let longest = Bytes::from(vec![7; MAX_LEN]);
        assert_eq!(read(&written(std::slice::from_ref(&longest))).0, [longest]);
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9_000), 0..9)
        ) {
            let datagrams: Vec<_> = datagrams.into_iter().map(Bytes::from).collect();
            let (read, end) = read(&written(&datagrams));
            prop_assert_eq!(read, datagrams);
            prop_assert!(end.is_ok());
        }

        #[test]
        fn any_bytes_are_datagrams_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..99)) {
            let _ = read(&bytes);
        }
    }
}
