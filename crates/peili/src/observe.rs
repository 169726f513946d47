//! The port of metrics and health.

use std::sync::Arc;

use http::{Response, StatusCode, header};
use mirror::{Body, Ends, Mirror};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers `/metrics`, `/readyz` and `/livez` until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    metrics: Registry,
    mirror: Arc<Mirror>,
    shutdown: CancellationToken,
) {
    let metrics = Arc::new(metrics);
    let handler = move |request: http::Request<hyper::body::Incoming>, _: Ends| {
        let (metrics, mirror) = (metrics.clone(), mirror.clone());
        async move { answer(request.uri().path(), &metrics, &mirror) }
    };
    mirror::serve::serve(listener, shutdown, handler).await;
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
        "/readyz" => mirror::ready(&mirror.health()),
        "/livez" => text(StatusCode::OK, String::new()),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /readyz and /livez\n".into(),
        ),
    }
}
