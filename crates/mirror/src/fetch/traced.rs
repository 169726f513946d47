//! The spans of a request to a peer: connecting, waiting for the head of the answer, and the transfer of its body.

use std::future::Future;

use hyper_util::client::legacy::connect::capture_connection;

use crate::Candidate;
use crate::trace::{Span, SpanKind, TRACEPARENT, TraceContext};

/// A request to a peer, as its trace shows it.
#[derive(Debug, Default)]
pub struct PeerSpans {
    // Dropped first: it is inside the other.
    transfer: Span,
    peer: Span,
}

impl PeerSpans {
    /// Begins the span of the request.
    pub fn begin(trace: &TraceContext, candidate: &Candidate) -> Self {
        let mut peer = trace.span("ask peer", SpanKind::Client);
        peer.set("peili.peer", || candidate.peer.to_string());
        peer.set("server.address", || {
            let addresses = candidate.addresses.iter().map(ToString::to_string);
            addresses.collect::<Vec<_>>().join(",")
        });
        let transfer = Span::default();
        Self { transfer, peer }
    }

    /// Sends a request, and records the phases until its answer.
    pub async fn send<B, T, F>(
        &self,
        mut request: http::Request<B>,
        send: impl FnOnce(http::Request<B>) -> F,
    ) -> T
    where
        F: Future<Output = T>,
    {
        let trace = self.peer.context();
        let Some(header) = trace.header() else {
            return send(request).await;
        };
        request.headers_mut().insert(TRACEPARENT, header);
        let mut connected = capture_connection(&mut request);
        let connect = trace.span("connect", SpanKind::Internal);
        let mut answer = std::pin::pin!(send(request));
        tokio::select! {
            biased;
            _ = connected.wait_for_connection_metadata() => connect.end(),
            answer = answer.as_mut() => return answer,
        }
        let _first_byte = trace.span("first byte", SpanKind::Internal);
        answer.await
    }

    /// Records the head of the answer; the body follows.
    pub fn answered(&mut self, status: http::StatusCode) {
        let status = status.as_u16().into();
        self.peer.set_number("http.response.status_code", status);
        self.transfer = self.peer.context().span("transfer", SpanKind::Internal);
    }

    pub fn received(&self, bytes: u64) {
        self.transfer.add_bytes(bytes);
    }

    /// Records that there is no usable answer.
    pub fn fail(&mut self, why: &str) {
        self.peer.fail(why);
    }
}
