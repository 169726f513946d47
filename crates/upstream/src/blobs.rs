//! Blobs: their sizes and their bytes.

use http::header::RANGE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use mirror::{UpstreamBlob, UpstreamError, UpstreamRepository};
use oci::{Digest, Origin, Ranges};

use crate::blob::{self, Incoming, Labelled, Source};
use crate::encoding::{self, Form};
use crate::fault::protocol;
use crate::part::{Cut, CutError, RequestedPart, whole_size};
use crate::registries::{Asked, Registries};

/// The smallest range of a blob whose answer contains the size of the whole.
const FIRST_BYTE: HeaderValue = HeaderValue::from_static("bytes=0-0");

impl Registries {
    pub(crate) async fn size_of_blob(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
    ) -> Result<Option<u64>, UpstreamError> {
        let origin = &repository.origin;
        let asked = match self.ask_blob(repository, Method::HEAD, digest, None).await {
            Err(UpstreamError::Protocol(..)) => None,
            asked => Some(asked?),
        };
        match asked {
            Some(asked) if asked.status() == StatusCode::TOO_MANY_REQUESTS => {
                asked.check(origin)?;
            }
            Some(asked) if asked.status().is_success() => {
                if let Some(size) = size(&asked) {
                    return Ok(Some(size));
                }
            }
            _ => {}
        }
        let range = Some(FIRST_BYTE);
        let asked = self
            .ask_blob(repository, Method::GET, digest, range)
            .await?;
        if asked.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(size(&asked));
        }
        Ok(size(&asked.check(origin)?))
    }

    pub(crate) async fn open_blob(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
        ranges: Option<&Ranges>,
    ) -> Result<UpstreamBlob, UpstreamError> {
        let origin = &repository.origin;
        let wanted = RequestedPart::of(ranges);
        let range = ranges.map(|ranges| HeaderValue::from_str(&ranges.first().to_string()));
        let range = range.transpose();
        let range = range.map_err(|_| protocol(origin, "a range that no header can hold"))?;
        let is_ranged = range.is_some();
        let mut asked = self
            .ask_blob(repository, Method::GET, digest, range)
            .await?;
        if is_ranged && asked.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            let size = size(&asked);
            return Err(cut_fault(origin, CutError::Unsatisfiable(size)));
        }
        asked = asked.check(origin)?;
        let is_labelled = encoding::is_labelled(asked.headers());
        if is_labelled && asked.status() == StatusCode::PARTIAL_CONTENT {
            // Only the whole body shows whether this is a part of the blob or of its encoding.
            drop(asked);
            let whole = self.ask_blob(repository, Method::GET, digest, None).await?;
            asked = whole.check(origin)?;
        }
        let cut = self.cut(repository, digest, wanted, &asked).await?;
        let visibility = asked.granted.visibility;
        let response = asked.granted.answer.response;
        let is_labelled = encoding::is_labelled(response.headers());
        let incoming = Incoming::new(origin, response, self.caller.limits.stall);
        let (source, form) = if is_labelled {
            let (labelled, form) = Labelled::open(incoming, digest, &self.forms).await?;
            (Source::Labelled(Box::new(labelled)), form)
        } else {
            (Source::Plain(Box::new(incoming)), Form::Plain)
        };
        Ok(UpstreamBlob {
            size: cut.size.filter(|_| form == Form::Plain),
            offset: cut.offset,
            visibility,
            body: blob::cut(source, &cut, asked.permit),
        })
    }

    /// Determines how to cut a successful answer.
    async fn cut(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
        wanted: RequestedPart,
        asked: &Asked,
    ) -> Result<Cut, UpstreamError> {
        let origin = &repository.origin;
        let cut = match asked.status() {
            StatusCode::OK => match Cut::of_whole(wanted, size(asked)) {
                Err(CutError::Unsized) => {
                    let size = self.size_of_blob(repository, digest).await?;
                    Cut::of_whole(wanted, size)
                }
                cut => cut,
            },
            StatusCode::PARTIAL_CONTENT => Cut::of_part(wanted, asked.headers()),
            status => return Err(protocol(origin, &format!("{status} to a GET"))),
        };
        cut.map_err(|error| cut_fault(origin, error))
    }

    async fn ask_blob(
        &self,
        repository: &UpstreamRepository,
        method: Method,
        digest: &Digest,
        range: Option<HeaderValue>,
    ) -> Result<Asked, UpstreamError> {
        let headers = range.into_iter().map(|range| (RANGE, range)).collect();
        let path = format!("blobs/{digest}");
        self.ask(repository, method, (&path, ""), headers).await
    }
}

/// The size of the blob, if the answer contains it. That of an encoded body may differ.
fn size(asked: &Asked) -> Option<u64> {
    let headers: &HeaderMap = asked.headers();
    let size = whole_size(asked.status(), headers);
    size.filter(|_| !encoding::is_labelled(headers))
}

fn cut_fault(origin: &Origin, error: CutError) -> UpstreamError {
    match error {
        CutError::Unsatisfiable(size) => UpstreamError::Unsatisfiable {
            origin: origin.clone(),
            size,
        },
        CutError::Unsized => protocol(origin, "a whole blob to a range, without its size"),
        CutError::OtherRange => protocol(origin, "another range than was asked for"),
    }
}
