//! Records a request: the last step of a pull. One log line and one set of metrics for each request, written when the
//! last byte of its answer has been sent, or when the client is gone.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::activity::ActiveRequest;
use crate::found::Source;
use crate::measured::Measuring;
use crate::metrics::{HandlerLabels, HttpLabels, Metrics};
use crate::object_stream::{BodyError, BodyHook};
use crate::request::{Kind, Request, RequestError, Target};
use crate::trace::Span;

/// The most characters of a path in the log.
const MAX_PATH: usize = 512;

/// The recorded status of a client that left before there was an answer, as in nginx.
const CLIENT_GONE: u16 = 499;

/// The record of a request. Dropping it closes the record.
pub struct RequestRecord {
    metrics: Arc<Metrics>,
    started: Instant,
    method: Method,
    path: String,
    pub ip: IpAddr,
    /// The step that answered: `manifest`, `blob`, `mirror`, `v2`, `readyz`, `livez`, `link-test`.
    pub handler: &'static str,
    /// `None` until there is an answer: the client left before.
    pub status: Option<StatusCode>,
    /// The registry as the client named it.
    pub registry: Option<String>,
    pub refusal: Option<String>,
    pub(crate) source: Option<Source>,
    pub(crate) hook: Option<Box<dyn BodyHook>>,
    /// The pull of this node that the request is part of, and the first requested byte.
    pub(crate) pull: Option<(ActiveRequest, u64)>,
    /// The measurement, if the client only measures: then the pull is forgotten with the record.
    pub(crate) measuring: Option<Measuring>,
    /// Counts the bytes sent to a peer.
    pub(crate) sent_to: Option<Arc<AtomicU64>>,
    bytes: u64,
    /// When the first of them was sent, if it was.
    first_byte: Option<Duration>,
    broken: Option<String>,
    /// The span of a request for content, if it is recorded. It ends with the record.
    pub(crate) span: Span,
}

/// The step that answers a request, as far as its path shows.
pub fn handler(request: &Result<Request, RequestError>) -> &'static str {
    match request {
        Ok(Request::Base) => "v2",
        Ok(Request::Ready) => "readyz",
        Ok(Request::Live) => "livez",
        Ok(Request::LinkTest) => "link-test",
        Ok(Request::Report(_)) => "node-report",
        Ok(Request::Content(Target {
            kind: Kind::Manifest,
            ..
        })) => "manifest",
        Ok(Request::Content(Target {
            kind: Kind::Blob, ..
        })) => "blob",
        Ok(Request::List { .. }) | Err(_) => "registry",
    }
}

impl RequestRecord {
    pub fn open(
        metrics: Arc<Metrics>,
        method: Method,
        path: &str,
        ip: IpAddr,
        handler: &'static str,
    ) -> Self {
        metrics
            .requests_in_flight
            .get_or_create(&HandlerLabels {
                handler: "registry",
            })
            .inc();
        Self {
            metrics,
            started: Instant::now(),
            method,
            path: path.chars().take(MAX_PATH).collect(),
            ip,
            handler,
            status: None,
            registry: None,
            refusal: None,
            source: None,
            hook: None,
            pull: None,
            measuring: None,
            sent_to: None,
            bytes: 0,
            first_byte: None,
            broken: None,
            span: Span::default(),
        }
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.measuring.is_some() {
            self.first_byte
                .get_or_insert_with(|| self.started.elapsed());
        }
        if let Some(hook) = &self.hook {
            hook.sent(bytes as u64);
        }
        if let Some(sent_to) = &self.sent_to {
            sent_to.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        if let Some((request, start)) = &self.pull {
            let pull = &request.pull;
            pull.reached(start + self.bytes, bytes as u64);
            if self.source == Some(Source::Local) {
                pull.bytes.local.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        }
        match self.source {
            Some(Source::Local) => self.metrics.bytes.local.inc_by(bytes as u64),
            Some(Source::Growing) => self.metrics.bytes.growing.inc_by(bytes as u64),
            Some(Source::Peer | Source::Upstream) | None => 0,
        };
    }

    /// Writes the data of the log to the trace as well.
    fn close_span(&mut self, status: u16, source: Option<&'static str>) {
        let span = &mut self.span;
        span.set("http.request.method", || self.method.to_string());
        span.set("url.path", || self.path.clone());
        span.set("client.address", || self.ip.to_string());
        span.set_number("http.response.status_code", status.into());
        span.add_bytes(self.bytes);
        if let Some(registry) = &self.registry {
            span.set("peili.registry", || registry.clone());
        }
        if let Some(source) = source {
            span.set("peili.source", || source.to_owned());
        }
        if let Some(refusal) = &self.refusal {
            span.set("peili.refusal", || refusal.clone());
        }
        if let Some(broken) = &self.broken {
            span.fail(broken);
        }
    }

    pub(crate) fn broke(&mut self, error: &BodyError) {
        self.broken = Some(match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        });
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if let Some(mut measuring) = self.measuring.take() {
            if let Some((request, _)) = self.pull.take() {
                measuring.found(request.pull.source(), request.pull.size());
                request.forget();
            }
            measuring.end(self.first_byte, self.started.elapsed(), self.bytes);
        }
        let method = match self.method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            _ => "other",
        };
        let status = self.status.map_or(CLIENT_GONE, |status| status.as_u16());
        let labels = HttpLabels {
            handler: self.handler,
            method,
            code: status,
        };
        let latency = self.started.elapsed();
        self.metrics
            .request_seconds
            .get_or_create(&labels)
            .observe(latency.as_secs_f64());
        self.metrics
            .response_bytes
            .get_or_create(&labels)
            .observe(self.bytes as f64);
        self.metrics
            .requests_in_flight
            .get_or_create(&HandlerLabels {
                handler: "registry",
            })
            .dec();
        if matches!(self.handler, "readyz" | "livez" | "link-test") {
            return;
        }
        let source = self.source.map(|source| match source {
            Source::Local => "local",
            Source::Growing => "growing",
            Source::Peer => "peer",
            Source::Upstream => "upstream",
        });
        self.close_span(status, source);
        tracing::info!(
            path = self.path,
            status,
            registry = self.registry,
            method,
            latency = ?latency,
            ip = %self.ip,
            handler = self.handler,
            bytes = self.bytes,
            source,
            refusal = self.refusal,
            error = self.broken,
            "request"
        );
    }
}
