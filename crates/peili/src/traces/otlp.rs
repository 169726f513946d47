//! The OTLP 1.x messages for spans (<https://github.com/open-telemetry/opentelemetry-proto>, trace/v1/trace.proto).
//! Fields keep their numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use mirror::{EndedSpan, SpanKind, TraceValue};
use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Scope {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub name: String,
    #[prost(int32, tag = "6")]
    pub kind: i32,
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(int32, tag = "3")]
    pub code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    pub value: Option<Value>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;

impl Resource {
    /// A mirror. `more`: the operator's attributes, which replace those set here.
    pub fn new(service: &str, node: &str, more: &[(String, String)]) -> Self {
        let own = [
            ("service.name", service),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", node),
            ("host.name", node),
        ];
        let is_free = |name: &str| more.iter().all(|(given, _)| given != name);
        let own = own.into_iter().filter(|(name, _)| is_free(name));
        let own = own.map(|(name, value)| text(name, value.to_owned()));
        let more = more.iter().map(|(name, value)| text(name, value.clone()));
        Self {
            attributes: own.chain(more).collect(),
        }
    }
}

/// A request to a collector.
pub fn request(resource: &Resource, spans: Vec<EndedSpan>) -> ExportTraceServiceRequest {
    let scope = Scope {
        name: "peili".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let spans = ScopeSpans {
        scope: Some(scope),
        spans: spans.into_iter().map(span).collect(),
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![spans],
        }],
    }
}

fn span(ended: EndedSpan) -> Span {
    let attributes = ended
        .attributes
        .into_iter()
        .map(|(name, value)| match value {
            TraceValue::Text(value) => text(name, value),
            TraceValue::Number(number) => {
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                pair(name, Value::Number(number))
            }
        });
    let parent = ended.parent.map(u64::to_be_bytes);
    Span {
        trace_id: ended.trace.to_be_bytes().to_vec(),
        span_id: ended.id.to_be_bytes().to_vec(),
        parent_span_id: parent.map_or_else(Vec::new, |id| id.to_vec()),
        name: ended.name.to_owned(),
        kind: match ended.kind {
            SpanKind::Internal => 1,
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        },
        start_time_unix_nano: nanos(ended.start),
        end_time_unix_nano: nanos(ended.end),
        attributes: attributes.collect(),
        status: ended.error.map(|message| Status {
            message,
            code: ERROR,
        }),
    }
}

fn text(name: &str, value: String) -> KeyValue {
    pair(name, Value::Text(value))
}

fn pair(name: &str, value: Value) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_the_bytes_of_the_specification() {
        let start = UNIX_EPOCH + std::time::Duration::from_nanos(0x0102);
        let ended = EndedSpan {
            trace: 1,
            id: 2,
            parent: None,
            name: "x",
            kind: SpanKind::Client,
            start,
            end: start,
            attributes: vec![("n", TraceValue::Number(3))],
            error: None,
        };
        let mut wanted = vec![0x0a, 16];
        wanted.extend(1_u128.to_be_bytes());
        wanted.extend([0x12, 8, 0, 0, 0, 0, 0, 0, 0, 2]);
        wanted.extend([0x2a, 1, b'x', 0x30, 3]);
        wanted.extend([0x39, 2, 1, 0, 0, 0, 0, 0, 0, 0x41, 2, 1, 0, 0, 0, 0, 0, 0]);
        wanted.extend([0x4a, 7, 0x0a, 1, b'n', 0x12, 2, 0x18, 3]);
        assert_eq!(span(ended).encode_to_vec(), wanted);
    }

    #[test]
    fn attributes_of_the_operator_replace_ours() {
        let resource = Resource::new("peili", "n1", &[("host.name".into(), "h".into())]);
        let of = |name: &str| {
            let found = resource.attributes.iter().filter(|pair| pair.key == name);
            found.cloned().collect::<Vec<_>>()
        };
        assert_eq!(of("host.name"), [text("host.name", "h".into())]);
        assert_eq!(of("service.instance.id").len(), 1);
    }
}
