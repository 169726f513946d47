//! Converts the found content to a status, headers and a body: the step of the pipeline that sends it.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{Response, StatusCode};
use oci::{ByteRange, MediaType};

use crate::body::send_memory::SendMemory;
use crate::body::{self, Body, Part};
use crate::content_range::ContentRange;
use crate::found::{Found, Payload};
use crate::measured;
use crate::rate_limit::RateLimit;
use crate::refusal::{RETRY_SOON, Refusal};
use crate::request::conditions::{self, Conditions};
use crate::request::{Caller, Kind, NAMESPACE, Target};

/// Objects up to this size, in bytes, are sent to all clients, whatever the limits: refusing costs more.
const SMALL: u64 = 1024 * 1024;

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The answer with the found content, or with status 304 if the client has it. `asked`: the headers of the request.
///
/// # Errors
/// The requested ranges are outside the object, or longer than it; or the client wants another object.
pub fn found(
    target: &Target,
    asked: &HeaderMap,
    mut found: Found,
    (memory, upload): (&SendMemory, &Arc<RateLimit>),
) -> Result<Response<Body>, Refusal> {
    let conditions = conditions::check(asked, &found.digest);
    if conditions == Conditions::Failed {
        return Err(Refusal::ConditionFailed);
    }
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    set(headers, DIGEST, found.digest.as_str());
    set(headers, ETAG, &conditions::entity_tag(&found.digest));
    if let Some(origin) = &target.origin {
        set(headers, NAMESPACE, origin.registry.as_str());
    }
    if conditions == Conditions::NotModified {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    set(headers, CONTENT_TYPE, found.media_type.as_str());
    headers.extend(std::mem::take(&mut found.headers));
    if target.kind == Kind::Blob {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    let parts = match (&target.ranges, found.size) {
        // A range of an object without a size is unknown; the whole is always a right answer (RFC 9110, section 14.2).
        (_, None) => vec![Part::Range(0..u64::MAX)],
        (None, Some(size)) => vec![Part::Range(0..size)],
        (Some(ranges), Some(size)) => {
            let ranges = ranges.resolve(size)?;
            let parts = partial(&found.media_type, size, &ranges, headers);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            parts
        }
    };
    if found.size.is_some() {
        let length: u64 = parts.iter().map(Part::len).sum();
        set(response.headers_mut(), CONTENT_LENGTH, &length.to_string());
    }
    if target.head_only {
        found.payload = Payload::Empty;
    }
    let (share, is_large) = (memory.share(target.caller), found.size > Some(SMALL));
    let mut body = body::of(found, parts, share);
    if target.caller != Caller::Own && !upload.is_off() && !target.head_only {
        let permit = if is_large { upload.admit() } else { None };
        if is_large && permit.is_none() {
            return Err(Refusal::Uploads(target.kind));
        }
        body.limit(upload, permit);
    }
    *response.body_mut() = body;
    Ok(response)
}

/// The answer for a refusal. `is_peer`: for another node's mirror, which asks again later if this node is busy; a
/// container runtime gets "not found" instead, so that it goes on to its next host.
pub fn refused(refusal: &Refusal, is_peer: bool) -> Response<Body> {
    let mut response = Response::new(Body::bytes(refusal.body().into()));
    *response.status_mut() = refusal.status();
    if is_peer && refusal.is_busy() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let soon = HeaderValue::from_static(RETRY_SOON);
        response.headers_mut().insert(RETRY_AFTER, soon);
    }
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(refusal, Refusal::OutsideNetwork(_)) {
        // It would occupy a permit that others may have.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    if refusal.status() == StatusCode::NOT_FOUND {
        measured::name_reason(refusal, &mut response);
    }
    for (name, value) in refusal.headers() {
        response.headers_mut().append(name, value);
    }
    response
}

/// The body of a 206 and the headers that describe it (RFC 9110, 15.3.7).
fn partial(
    media_type: &MediaType,
    size: u64,
    ranges: &[ByteRange],
    headers: &mut HeaderMap,
) -> Vec<Part> {
    let shown = |range: &ByteRange| {
        ContentRange {
            range: range.clone(),
            size,
        }
        .to_string()
    };
    if let [range] = ranges {
        set(headers, CONTENT_RANGE, &shown(range));
        return vec![Part::Range(range.clone())];
    }
    // Separates the parts (RFC 2046, section 5.1.1). Random, so that no object can be made to contain it.
    let boundary = format!("peili-{:032x}", rand::random::<u128>());
    set(
        headers,
        CONTENT_TYPE,
        &format!("multipart/byteranges; boundary={boundary}"),
    );
    let mut parts = Vec::with_capacity(ranges.len() * 2 + 1);
    for range in ranges {
        let shown = shown(range);
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {shown}\r\n\r\n"
        );
        parts.push(Part::Text(head.into()));
        parts.push(Part::Range(range.clone()));
    }
    parts.push(Part::Text(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
    parts
}

/// Sets a header to a generated text: digests, media types, registries and numbers are all visible ASCII.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
