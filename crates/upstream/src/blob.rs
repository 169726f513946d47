//! The bytes of a blob, or of a part of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use mirror::UpstreamError;
use oci::{Digest, Origin};
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;

use crate::call::next_chunk;
use crate::encoding::{self, Form, Forms, Unlabelled};
use crate::fault::{protocol, unreachable};
use crate::part::Cut;

/// The most bytes of a labelled body held until its digest shows its form.
const HELD: usize = 1024 * 1024;

pub(crate) type Body = BoxStream<'static, Result<Bytes, UpstreamError>>;

/// The bytes of an answer as they come.
pub(crate) struct Incoming {
    origin: Origin,
    response: Response,
    stall: Duration,
    /// Bytes that were read to detect the form, in order.
    held: VecDeque<Bytes>,
}

impl Incoming {
    pub(crate) fn new(origin: &Origin, response: Response, stall: Duration) -> Self {
        Self {
            origin: origin.clone(),
            response,
            stall,
            held: VecDeque::new(),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match self.held.pop_front() {
            Some(bytes) => Ok(Some(bytes)),
            None => next_chunk(&self.origin, &mut self.response, self.stall).await,
        }
    }

    /// The first bytes, which [`Self::next`] returns again: at least [`HELD`], or all. Also returns whether they are
    /// all.
    async fn hold(&mut self) -> Result<(Vec<u8>, bool), UpstreamError> {
        let mut bytes = Vec::new();
        while bytes.len() < HELD {
            let next = next_chunk(&self.origin, &mut self.response, self.stall).await?;
            let Some(next) = next else {
                return Ok((bytes, true));
            };
            bytes.extend_from_slice(&next);
            self.held.push_back(next);
        }
        Ok((bytes, false))
    }
}

/// The bytes of the object, before they are cut.
pub(crate) enum Source {
    Plain(Box<Incoming>),
    Labelled(Box<Labelled>),
}

impl Source {
    fn origin(&self) -> &Origin {
        match self {
            Self::Plain(incoming) => &incoming.origin,
            Self::Labelled(labelled) => &labelled.incoming.origin,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match self {
            Self::Plain(incoming) => incoming.next().await,
            Self::Labelled(labelled) => labelled.next().await,
        }
    }
}

/// The object in a whole body that is labelled as encoded, rightly or not.
pub(crate) struct Labelled {
    incoming: Incoming,
    /// The bytes that have come and are not processed yet.
    input: Bytes,
    /// `None` once the end has been reached.
    object: Option<Unlabelled>,
    form: Form,
    digest: Digest,
    forms: Arc<Forms>,
}

impl Labelled {
    /// Opens a labelled body and determines its form: by the digest if it is small, else by its beginning.
    pub(crate) async fn open(
        mut incoming: Incoming,
        digest: &Digest,
        forms: &Arc<Forms>,
    ) -> Result<(Self, Form), UpstreamError> {
        let (beginning, is_whole) = incoming.hold().await?;
        let form = if is_whole {
            encoding::form_of(&beginning, digest).ok_or_else(|| {
                let text = format!("bytes that are not {digest}, encoded or not");
                protocol(&incoming.origin, &text)
            })?
        } else {
            let known = forms.get(digest);
            known.unwrap_or_else(|| encoding::likely_form(&beginning))
        };
        let labelled = Self {
            incoming,
            input: Bytes::new(),
            object: Some(Unlabelled::new(form, digest)),
            form,
            digest: digest.clone(),
            forms: forms.clone(),
        };
        Ok((labelled, form))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        while let Some(object) = &mut self.object {
            if self.input.is_empty() {
                let Some(input) = self.incoming.next().await? else {
                    let ended = self.object.take().map(Unlabelled::end);
                    return match ended {
                        Some(Ok((bytes, true))) => Ok(Some(bytes).filter(|b| !b.is_empty())),
                        _ => Err(self.was_wrong()),
                    };
                };
                self.input = input;
            }
            let Ok(bytes) = object.next(&mut self.input) else {
                return Err(self.was_wrong());
            };
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Records that the form was wrong. The next request gets the other form.
    fn was_wrong(&self) -> UpstreamError {
        self.forms.was_wrong(&self.digest, self.form);
        let text = format!(
            "an encoding label that is wrong for {}; ask again",
            self.digest
        );
        protocol(&self.incoming.origin, &text)
    }
}

/// The requested bytes. `permit` is released at their end.
pub(crate) fn cut(source: Source, cut: &Cut, permit: OwnedSemaphorePermit) -> Body {
    let body = CutBody {
        source,
        skip: cut.skip,
        left: cut.take,
        _permit: permit,
    };
    let body = stream::try_unfold(body, async |mut body| {
        Ok(body.next().await?.map(|bytes| (bytes, body)))
    });
    body.boxed()
}

struct CutBody {
    source: Source,
    /// The bytes to drop before the first requested one.
    skip: u64,
    /// The bytes still to come, if known.
    left: Option<u64>,
    _permit: OwnedSemaphorePermit,
}

impl CutBody {
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            let Some(mut bytes) = self.source.next().await? else {
                let origin = self.source.origin();
                return match self.left {
                    Some(_) => Err(unreachable(origin, "the body ended early")),
                    None if self.skip > 0 => {
                        Err(protocol(origin, "a blob that ends before the offset"))
                    }
                    None => Ok(None),
                };
            };
            let skipped = self.skip.min(bytes.len() as u64);
            self.skip -= skipped;
            // At most the length of these bytes.
            bytes = bytes.slice(usize::try_from(skipped).unwrap_or(bytes.len())..);
            if let Some(left) = &mut self.left {
                let kept = usize::try_from(*left).map_or(bytes.len(), |l| l.min(bytes.len()));
                bytes.truncate(kept);
                *left -= bytes.len() as u64;
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }
}
