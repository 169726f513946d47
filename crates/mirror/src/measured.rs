//! Requests that only measure: `peili pull`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::HeaderValue;
use http::{HeaderMap, Response};
use oci::Digest;
use parking_lot::Mutex;
use serde::Serialize;

use crate::UpstreamReason;
use crate::activity::{Activities, PullSource};
use crate::body::Body;
use crate::refusal::Refusal;
use crate::request::{Caller, Kind, MEASURED, REASON, SOURCE, Target};
use crate::snapshot::{Source, in_millis, millis};

/// The most objects to remember: those of a few images.
const MAX_OBJECTS: usize = 256;

/// An object that a client of this node has measured. Times are in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct MeasuredObject {
    pub registry: Option<String>,
    pub repository: Option<String>,
    pub digest: String,
    pub is_manifest: bool,
    /// The size in bytes, if it was found here.
    pub size: Option<u64>,
    /// Where it came from. Upstream: the client was sent there, and its result is unknown here.
    pub source: Source,
    /// The time of the request, since 1970.
    pub started_ms: u64,
    /// The time from the request to the first byte sent. `None`: none was sent.
    pub first_byte_ms: Option<u64>,
    /// The time from the request to the end of its answer.
    pub took_ms: u64,
    /// The bytes sent.
    pub sent: u64,
}

/// The latest measured objects, the last one first.
#[derive(Debug, Default)]
pub struct Measurements(Mutex<VecDeque<MeasuredObject>>);

impl Measurements {
    pub fn add(&self, object: MeasuredObject) {
        let mut objects = self.0.lock();
        objects.truncate(MAX_OBJECTS - 1);
        objects.push_front(object);
    }

    pub fn latest(&self) -> Vec<MeasuredObject> {
        self.0.lock().iter().cloned().collect()
    }
}

/// A measuring request, until it is answered.
#[derive(Debug)]
pub struct Measuring {
    activities: Arc<Activities>,
    object: MeasuredObject,
}

impl Measuring {
    pub fn begin(activities: &Arc<Activities>, target: &Target, digest: &Digest) -> Self {
        let origin = target.origin.as_ref();
        let object = MeasuredObject {
            registry: origin.map(|origin| origin.registry.to_string()),
            repository: origin.map(|origin| origin.repository.to_string()),
            digest: digest.to_string(),
            is_manifest: target.kind == Kind::Manifest,
            size: None,
            source: Source::Unknown,
            started_ms: millis(SystemTime::now()),
            first_byte_ms: None,
            took_ms: 0,
            sent: 0,
        };
        let activities = activities.clone();
        Self { activities, object }
    }

    /// Records the source of the object, and its size.
    pub fn found(&mut self, source: PullSource, size: Option<u64>) {
        (self.object.source, self.object.size) = (source.into(), size);
    }

    /// Records that the client was sent to the registry.
    pub fn refused(&mut self, reason: UpstreamReason) {
        self.object.source = Source::Upstream { reason };
    }

    /// Records the end of the answer, after this many bytes.
    pub fn end(mut self, first_byte: Option<Duration>, took: Duration, sent: u64) {
        self.object.first_byte_ms = first_byte.map(in_millis);
        (self.object.took_ms, self.object.sent) = (in_millis(took), sent);
        self.activities.measured(self.object);
    }
}

/// Whether a request only measures. Clients of other hosts learn nothing about this node's peers.
pub fn is_measured(target: &Target, headers: &HeaderMap) -> bool {
    target.caller == Caller::Own && headers.contains_key(MEASURED)
}

/// Adds a header with the source to a measured answer.
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

/// Adds a header with the reason why a client is sent to the registry.
pub fn name_reason(refusal: &Refusal, response: &mut Response<Body>) {
    let reason = HeaderValue::from_static(refusal.reason().as_str());
    response.headers_mut().insert(REASON, reason);
}
