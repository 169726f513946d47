//! A blob on its way, from an offset on.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::StatusCode;
use http::header::CONTENT_RANGE;
use mirror::UpstreamError;
use oci::Origin;
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;

use crate::call::{next_chunk, protocol, unreachable};

type Body = BoxStream<'static, Result<Bytes, UpstreamError>>;

/// The size of the whole blob, where it is known, and its bytes from `offset` on. A registry that ignores ranges sends
/// all of it; what stands before the offset is then read and dropped. `turn` is given back when the body has ended.
pub(crate) fn open(
    origin: &Origin,
    response: Response,
    offset: u64,
    stall: Duration,
    turn: OwnedSemaphorePermit,
) -> Result<(Option<u64>, Body), UpstreamError> {
    let length = response.content_length();
    let (skip, size) = match response.status() {
        StatusCode::OK => (offset, length),
        StatusCode::PARTIAL_CONTENT if offset > 0 => {
            let range = response.headers().get(CONTENT_RANGE);
            let (_, size) = range
                .and_then(|value| content_range(value.to_str().ok()?))
                .filter(|(start, _)| *start == offset)
                .ok_or_else(|| protocol(origin, "another range than was asked for"))?;
            (
                0,
                size.or(length.and_then(|length| length.checked_add(offset))),
            )
        }
        status => return Err(protocol(origin, &format!("{status} to a GET"))),
    };
    if size.is_some_and(|size| size < offset) {
        return Err(protocol(origin, "a blob that ends before the offset"));
    }
    let body = BlobBody {
        origin: origin.clone(),
        response,
        skip,
        left: size.map(|size| size - offset),
        stall,
        _turn: turn,
    };
    let body = stream::try_unfold(body, async |mut body| {
        Ok(body.next().await?.map(|bytes| (bytes, body)))
    });
    Ok((size, body.boxed()))
}

/// A blob's bytes as they come.
struct BlobBody {
    origin: Origin,
    response: Response,
    /// Bytes to drop before the first that was asked for.
    skip: u64,
    /// Bytes there have to be, where that is known.
    left: Option<u64>,
    stall: Duration,
    _turn: OwnedSemaphorePermit,
}

impl BlobBody {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let chunk = next_chunk(&self.origin, &mut self.response, self.stall).await?;
            let Some(mut bytes) = chunk else {
                return match self.left {
                    Some(1..) => Err(unreachable(&self.origin, "the body ended early")),
                    _ if self.skip > 0 => {
                        Err(protocol(&self.origin, "a blob that ends before the offset"))
                    }
                    _ => Ok(None),
                };
            };
            let skipped = self.skip.min(bytes.len() as u64);
            self.skip -= skipped;
            // At most the length of these bytes.
            bytes = bytes.slice(usize::try_from(skipped).unwrap_or(bytes.len())..);
            if bytes.is_empty() {
                continue;
            }
            if let Some(left) = &mut self.left {
                *left = left
                    .checked_sub(bytes.len() as u64)
                    .ok_or_else(|| protocol(&self.origin, "more bytes than announced"))?;
            }
            return Ok(Some(bytes));
        }
    }
}

/// `bytes 5-9/10` or `bytes 5-9/*` (RFC 9110, section 14.4): where it starts, and the size of the whole.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
    let size = match size {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    let is_sound = start <= end && size.is_none_or(|size| end < size);
    is_sound.then_some((start, size))
}
