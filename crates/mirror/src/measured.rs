//! Requests that only measure: `peili pull`.

use http::header::HeaderValue;
use http::{HeaderMap, Response};

use crate::activity::PullSource;
use crate::body::Body;
use crate::refusal::Refusal;
use crate::request::{Caller, MEASURED, REASON, SOURCE, Target};

/// Whether a request only measures. A client of another host learns nothing of this node's peers.
pub fn is_measured(target: &Target, headers: &HeaderMap) -> bool {
    target.caller == Caller::Own && headers.contains_key(MEASURED)
}

/// Names the source of a measured answer.
pub fn name_source(target: &Target, response: &mut Response<Body>) {
    if !target.pull.is_measured {
        return;
    }
    let source = target.pull.activity.as_ref().map(|pull| pull.source());
    let source = match source {
        Some(PullSource::Local) => "local".to_owned(),
        Some(PullSource::Peer(peer)) => match peer.addresses.first() {
            Some(address) => address.to_string(),
            None => peer.peer.to_string(),
        },
        Some(PullSource::Unknown | PullSource::Upstream(_)) | None => return,
    };
    if let Ok(source) = HeaderValue::from_str(&source) {
        response.headers_mut().insert(SOURCE, source);
    }
}

/// Says why a client is sent to the registry.
pub fn name_reason(refusal: &Refusal, response: &mut Response<Body>) {
    let reason = HeaderValue::from_static(refusal.reason());
    response.headers_mut().insert(REASON, reason);
}
