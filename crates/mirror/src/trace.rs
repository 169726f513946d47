//! Traces: what a pull waits for, on all nodes that take part in it.
//!
//! A request for content is a span, with spans below it for its steps. A request to a peer carries `traceparent`
//! (<https://www.w3.org/TR/trace-context/>), so that the peer's span belongs to the same trace. Without a [`TraceSink`]
//! no span exists, and each of these calls is a comparison with zero.
//!
//! Attributes contain what is also in the log: names of images, digests, addresses. They contain no header and no
//! query.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

/// The header with the trace of a request, and the span that it belongs to.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The destination of finished spans.
pub trait TraceSink: Send + Sync + 'static {
    /// Whether to record a request. `parent`: whether its sender records it, if that is known.
    fn samples(&self, trace: u128, parent: Option<bool>) -> bool;

    /// Takes a span. Never waits.
    fn ended(&self, span: EndedSpan);
}

/// The role of a span (OTLP, `SpanKind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    Internal,
    /// A request that this node answers.
    Server,
    /// A request that this node sends.
    Client,
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceValue {
    Text(String),
    Number(u64),
}

/// A complete span.
#[derive(Clone, Debug)]
pub struct EndedSpan {
    pub trace: u128,
    pub id: u64,
    pub parent: Option<u64>,
    pub name: &'static str,
    pub kind: SpanKind,
    pub start: SystemTime,
    pub end: SystemTime,
    pub attributes: Vec<(&'static str, TraceValue)>,
    /// The error, if it failed.
    pub error: Option<String>,
}

/// The place of a request in its trace, for the spans below it. Empty: the request is not recorded.
#[derive(Clone, Default)]
pub struct TraceContext(Option<Arc<SpanParent>>);

struct SpanParent {
    sink: Arc<dyn TraceSink>,
    trace: u128,
    span: u64,
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(place) => write!(f, "{:032x}-{:016x}", place.trace, place.span),
            None => f.write_str("none"),
        }
    }
}

impl TraceContext {
    /// Whether spans are recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span below this place.
    pub fn span(&self, name: &'static str, kind: SpanKind) -> Span {
        let Some(place) = &self.0 else {
            return Span::default();
        };
        Span::begin(
            place.sink.clone(),
            place.trace,
            Some(place.span),
            name,
            kind,
        )
    }

    /// The header for a request that is sent from this place.
    pub fn header(&self) -> Option<HeaderValue> {
        let place = self.0.as_ref()?;
        let text = format!("00-{:032x}-{:016x}-01", place.trace, place.span);
        HeaderValue::from_str(&text).ok()
    }
}

/// An open span. It ends when it is dropped.
#[derive(Default)]
pub struct Span(Option<Box<Open>>);

struct Open {
    sink: Arc<dyn TraceSink>,
    began: Instant,
    bytes: AtomicU64,
    span: EndedSpan,
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or("none", |open| open.span.name))
    }
}

impl Span {
    /// The span of an incoming request. It belongs to the trace in its header.
    pub fn of_request(sink: Option<&Arc<dyn TraceSink>>, headers: &HeaderMap) -> Self {
        let Some(sink) = sink else {
            return Self::default();
        };
        let parent = headers.get(TRACEPARENT);
        let parent = parent.and_then(|value| parse(value.to_str().ok()?));
        let trace = parent.map_or_else(rand::random, |(trace, ..)| trace);
        if !sink.samples(trace, parent.map(|(.., is_sampled)| is_sampled)) {
            return Self::default();
        }
        let parent = parent.map(|(_, span, _)| span);
        Self::begin(sink.clone(), trace, parent, "request", SpanKind::Server)
    }

    fn begin(
        sink: Arc<dyn TraceSink>,
        trace: u128,
        parent: Option<u64>,
        name: &'static str,
        kind: SpanKind,
    ) -> Self {
        let start = SystemTime::now();
        let span = EndedSpan {
            trace,
            // Zero is not a valid id.
            id: rand::random_range(1..=u64::MAX),
            parent,
            name,
            kind,
            start,
            end: start,
            attributes: Vec::new(),
            error: None,
        };
        Self(Some(Box::new(Open {
            sink,
            began: Instant::now(),
            bytes: AtomicU64::new(0),
            span,
        })))
    }

    pub fn context(&self) -> TraceContext {
        TraceContext(self.0.as_ref().map(|open| {
            Arc::new(SpanParent {
                sink: open.sink.clone(),
                trace: open.span.trace,
                span: open.span.id,
            })
        }))
    }

    /// Sets an attribute. The text is made only if the span is recorded.
    pub fn set(&mut self, name: &'static str, text: impl FnOnce() -> String) {
        if let Some(open) = &mut self.0 {
            open.span.attributes.push((name, TraceValue::Text(text())));
        }
    }

    pub fn set_number(&mut self, name: &'static str, number: u64) {
        if let Some(open) = &mut self.0 {
            open.span
                .attributes
                .push((name, TraceValue::Number(number)));
        }
    }

    /// Counts bytes that were transferred.
    pub fn add_bytes(&self, bytes: u64) {
        if let Some(open) = &self.0 {
            open.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Records that the operation of the span has failed.
    pub fn fail(&mut self, why: impl fmt::Display) {
        if let Some(open) = &mut self.0 {
            open.span.error = Some(why.to_string());
        }
    }

    /// Ends the span now.
    pub fn end(self) {}
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(open) = self.0.take() else { return };
        let Open {
            sink,
            began,
            bytes,
            mut span,
        } = *open;
        span.end = span.start + began.elapsed();
        let bytes = bytes.into_inner();
        if bytes > 0 {
            let number = TraceValue::Number(bytes);
            span.attributes.push(("peili.bytes", number));
        }
        sink.ended(span);
    }
}

/// The trace, the span and whether the trace is recorded, from a `traceparent` (Trace Context, section 3.2.2). `None`:
/// it must be ignored.
fn parse(text: &str) -> Option<(u128, u64, bool)> {
    let mut parts = text.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (span, flags) = (parts.next()?, parts.next()?);
    let is_hex = |part: &str, length| {
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        part.len() == length && part.bytes().all(is_digit)
    };
    let lengths = [(version, 2), (trace, 32), (span, 16), (flags, 2)];
    let is_sound = lengths
        .into_iter()
        .all(|(part, length)| is_hex(part, length));
    // Later versions may have further parts.
    if !is_sound || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok()?;
    let span = u64::from_str_radix(span, 16).ok()?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    (trace != 0 && span != 0).then_some((trace, span, flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<EndedSpan>>);

    impl TraceSink for Kept {
        fn samples(&self, _: u128, parent: Option<bool>) -> bool {
            parent.unwrap_or(true)
        }

        fn ended(&self, span: EndedSpan) {
            self.0.lock().push(span);
        }
    }

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn asked(parent: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(parent))])
    }

    #[test]
    fn spans_belong_to_the_trace_of_whoever_asked() {
        let kept = Arc::new(Kept::default());
        let sink: Arc<dyn TraceSink> = kept.clone();
        let request = Span::of_request(Some(&sink), &asked(PARENT));
        let mut child = request.context().span("lookup", SpanKind::Internal);
        child.set("peili.outcome", || "lead".to_owned());
        child.add_bytes(7);
        let header = child.context().header().expect("a header");
        let (trace, span, is_sampled) = parse(header.to_str().expect("text")).expect("sound");
        drop(child);
        drop(request);
        let spans = kept.0.lock();
        assert_eq!(trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert!(spans.iter().all(|span| span.trace == trace) && is_sampled);
        assert_eq!((spans[0].id, spans[0].parent), (span, Some(spans[1].id)));
        assert_eq!(spans[1].parent, Some(0x00f0_67aa_0ba9_02b7));
        assert_eq!(
            spans[0].attributes,
            [
                ("peili.outcome", TraceValue::Text("lead".into())),
                ("peili.bytes", TraceValue::Number(7)),
            ]
        );
    }

    #[test]
    fn what_is_not_recorded_costs_no_span() {
        let kept = Arc::new(Kept::default());
        let sink: Arc<dyn TraceSink> = kept.clone();
        let unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        for request in [
            Span::of_request(Some(&sink), &asked(unsampled)),
            Span::of_request(None, &asked(PARENT)),
        ] {
            assert!(!request.context().is_on());
            assert!(request.context().header().is_none());
            request.context().span("connect", SpanKind::Internal).end();
        }
        assert!(kept.0.lock().is_empty());
    }

    #[test]
    fn a_traceparent_that_is_not_sound_is_ignored() {
        assert!(parse(PARENT).is_some());
        assert!(parse(&PARENT.replace("00-4", "cc-4")).is_some());
        assert!(parse(&format!("{}-what-else", PARENT.replace("00-4", "cc-4"))).is_some());
        for text in [
            "",
            "00",
            &PARENT.replace("00-4", "ff-4"),
            &PARENT.to_uppercase(),
            &format!("{PARENT}-x"),
            &PARENT.replace("00f067aa0ba902b7", "0000000000000000"),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
