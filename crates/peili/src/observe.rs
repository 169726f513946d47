//! The port of metrics and health.

mod background;
mod cluster;
mod content;
mod events;
mod facts;
mod page;
mod status;
mod trials;
mod views;

use std::sync::Arc;

use http::{Response, StatusCode, header};
use mirror::serve::PortLimits;
use mirror::{Body, ConnectionAddresses, Mirror};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[cfg(test)]
pub use page::PATHS;
pub use page::{PageAccess, Pages};
pub use views::{About, LastTrial, Views};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Registers `peili_node_info`: the name of this node, and its versions.
pub fn register_node(registry: &mut Registry, node: &str) {
    let labels = vec![
        ("node", node.to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    registry.register(
        "peili_node",
        "The node of this mirror and the version that it runs",
        Info::new(labels),
    );
}

/// Registers `peili_ready`.
pub fn register_ready(registry: &mut Registry) -> Gauge {
    let ready = Gauge::default();
    registry.register(
        "peili_ready",
        "1 while /readyz says that the mirror is ready, else 0",
        ready.clone(),
    );
    ready
}

/// All metrics of a mirror.
pub struct Metrics {
    pub registry: Arc<Registry>,
    /// The metric of [`register_ready`].
    pub ready: Gauge,
}

/// Answers `/metrics`, `/readyz` and `/livez`, and the pages, until `shutdown`.
pub async fn serve(
    limits: PortLimits,
    listener: TcpListener,
    metrics: Metrics,
    mirror: Arc<Mirror>,
    pages: Pages,
    shutdown: CancellationToken,
) {
    let Metrics { registry, ready } = metrics;
    let pages = Arc::new(pages);
    let handler = move |request: http::Request<hyper::body::Incoming>,
                        addresses: ConnectionAddresses| {
        let (metrics, pages, ready) = (registry.clone(), pages.clone(), ready.clone());
        let mirror = mirror.clone();
        async move {
            let path = request.uri().path();
            let answered = pages
                .answer(request.uri(), request.headers(), addresses)
                .await;
            if let Some(answer) = answered {
                return answer;
            }
            ready.set(i64::from(mirror.health().is_ready()));
            answer(path, &metrics, &mirror)
        }
    };
    mirror::serve::serve(limits, listener, shutdown, handler).await;
}

fn answer(path: &str, metrics: &Registry, mirror: &Mirror) -> Response<Body> {
    let text = |status, text: String| {
        let mut response = Response::new(Body::bytes(text.into()));
        *response.status_mut() = status;
        response
    };
    match path {
        "/metrics" => {
            let mut encoded = String::new();
            if let Err(error) = prometheus_client::encoding::text::encode(&mut encoded, metrics) {
                return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
            }
            let mut response = text(StatusCode::OK, encoded);
            let media_type = header::HeaderValue::from_static(OPENMETRICS);
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, media_type);
            response
        }
        "/readyz" => mirror.readiness(),
        "/livez" => text(StatusCode::OK, String::new()),
        _ => text(
            StatusCode::NOT_FOUND,
            format!(
                "there are {}, /metrics, /readyz and /livez\n",
                page::PATHS.join(", ")
            ),
        ),
    }
}
