//! Traces of pulls, sent to a collector by OTLP over HTTP. Off unless an endpoint is given.

mod otlp;
mod sampler;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use mirror::{EndedSpan, TraceSink};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use prost::Message as _;
use reqwest::Client;
use reqwest::header::CONTENT_TYPE;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub use settings::{TraceSettings, read};

use otlp::Resource;
use sampler::Sampler;

/// The most queued spans; further ones are dropped (`OTEL_BSP_MAX_QUEUE_SIZE`'s default).
const QUEUE: usize = 2048;
/// The most spans of one request to the collector (`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`'s default).
const BATCH: usize = 512;
/// The interval between requests to the collector (`OTEL_BSP_SCHEDULE_DELAY`'s default).
const PERIOD: Duration = Duration::from_secs(5);
/// The limit for the last spans of a mirror that ends.
const LAST_LIMIT: Duration = Duration::from_secs(2);
/// The minimal interval between log lines about a failing collector.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The metrics of traces.
#[derive(Clone, Debug, Default)]
struct Metrics {
    sent: Counter,
    dropped: Counter,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "peili_trace_spans_sent",
            "Spans of traces that the collector has taken",
            metrics.sent.clone(),
        );
        registry.register(
            "peili_trace_spans_dropped",
            "Spans of traces that were lost because the collector failed or too many waited",
            metrics.dropped.clone(),
        );
        metrics
    }
}

/// Queues the spans of the mirror.
pub struct Traces {
    queue: mpsc::Sender<EndedSpan>,
    sampler: Sampler,
    dropped: Counter,
}

impl TraceSink for Traces {
    fn samples(&self, trace: u128, parent: Option<bool>) -> bool {
        self.sampler.samples(trace, parent)
    }

    fn ended(&self, span: EndedSpan) {
        if self.queue.try_send(span).is_err() {
            self.dropped.inc();
        }
    }
}

/// Sends the spans to the collector.
pub struct Exporter {
    queue: mpsc::Receiver<EndedSpan>,
    settings: TraceSettings,
    client: Client,
    resource: Resource,
    metrics: Metrics,
    /// When a failure was last logged.
    complained: Option<Instant>,
}

/// Sets up traces of a node's mirror. Nothing is sent before [`Exporter::run`].
///
/// # Errors
/// The certificates of the system cannot be read.
pub fn open(
    settings: TraceSettings,
    node: &str,
    registry: &mut Registry,
) -> anyhow::Result<(Arc<Traces>, Exporter)> {
    let roots = match settings.endpoint.scheme() {
        "https" => tls::Roots::of_system(),
        _ => tls::Roots::none(),
    };
    let client = Client::builder()
        .tls_backend_preconfigured(tls::client(roots, None)?)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(settings.timeout)
        .build()?;
    let metrics = Metrics::register(registry);
    let (sender, queue) = mpsc::channel(QUEUE);
    let traces = Traces {
        queue: sender,
        sampler: settings.sampler,
        dropped: metrics.dropped.clone(),
    };
    let exporter = Exporter {
        queue,
        resource: Resource::new(&settings.service, node, &settings.attributes),
        settings,
        client,
        metrics,
        complained: None,
    };
    Ok((Arc::new(traces), exporter))
}

impl Exporter {
    /// Sends spans as they come, until `last`; then the rest.
    pub async fn run(mut self, last: CancellationToken) {
        tracing::info!(endpoint = %self.settings.endpoint, "exporting traces");
        loop {
            let mut spans = Vec::new();
            let ends = last
                .run_until_cancelled(self.batch(&mut spans))
                .await
                .is_none();
            if !ends {
                self.send(spans).await;
                continue;
            }
            while let Ok(span) = self.queue.try_recv() {
                spans.push(span);
            }
            if timeout(LAST_LIMIT, self.send(spans)).await.is_err() {
                tracing::debug!("the last spans were not sent in time");
            }
            return;
        }
    }

    /// Collects spans for one request.
    async fn batch(&mut self, spans: &mut Vec<EndedSpan>) {
        let Some(first) = self.queue.recv().await else {
            return std::future::pending().await;
        };
        spans.push(first);
        let until = Instant::now() + PERIOD;
        while spans.len() < BATCH {
            tokio::select! {
                span = self.queue.recv() => match span {
                    Some(span) => spans.push(span),
                    None => return,
                },
                () = sleep_until(until) => return,
            }
        }
    }

    async fn send(&mut self, spans: Vec<EndedSpan>) {
        if spans.is_empty() {
            return;
        }
        let count = spans.len() as u64;
        let body = otlp::request(&self.resource, spans).encode_to_vec();
        let mut request = self.client.post(self.settings.endpoint.clone());
        request = request.header(CONTENT_TYPE, "application/x-protobuf");
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        let error = match request.body(body).send().await {
            Ok(answer) if answer.status().is_success() => {
                self.metrics.sent.inc_by(count);
                return;
            }
            Ok(answer) => format!("it answers {}", answer.status()),
            Err(error) => format!("{:#}", anyhow::Error::from(error.without_url())),
        };
        self.metrics.dropped.inc_by(count);
        let is_new = self
            .complained
            .is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY);
        if is_new {
            self.complained = Some(Instant::now());
            tracing::warn!(
                endpoint = %self.settings.endpoint,
                error,
                "the collector rejects traces; check --otlp-endpoint and that it speaks OTLP over HTTP (port 4318 by default)"
            );
        }
    }
}

#[cfg(test)]
pub fn register(registry: &mut Registry) {
    let _ = Metrics::register(registry);
}
