//! `peili cleanup` and `peili cleanup-wait`: what is run on each node, and once, when Peili leaves a cluster.

use std::num::NonZeroU32;
use std::path::Path;

use anyhow::Context;
use hosts::probe::{self, Endpoint};
use http::{Response, StatusCode};
use mirror::{Body, Ends, ListenAddress};
use tokio_util::sync::CancellationToken;

use crate::cli::{CleanupArgs, CleanupWaitArgs};
use crate::configuration;
use crate::duration;
use crate::fault::Faults;

/// Puts containerd's configuration back, then says so on `/readyz` until it is stopped.
pub async fn run(arguments: &CleanupArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut faults = Faults::default();
    let address = faults.take("--addr", arguments.addr.parse::<ListenAddress>());
    let address = faults.settle(address)?;
    let listener = address
        .bind()
        .with_context(|| format!("cannot listen on --addr {address}"))?;
    let path = Path::new(&arguments.containerd_registry_config_path);
    let report =
        hosts::cleanup(path).context("containerd's registry configuration was not put back")?;
    configuration::log(&report);
    tracing::info!(%address, "put back; answering /readyz until stopped");
    let handler = |request: http::Request<hyper::body::Incoming>, _: Ends| async move {
        let mut response = Response::new(Body::empty());
        if request.uri().path() != "/readyz" || request.method() != http::Method::GET {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        response
    };
    mirror::serve::serve(listener, shutdown, handler).await;
    Ok(())
}

/// Returns when every node has cleaned up.
pub async fn wait(arguments: &CleanupWaitArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut faults = Faults::default();
    let endpoint = faults.take(
        "--probe-endpoint",
        arguments.probe_endpoint.parse::<Endpoint>(),
    );
    let period = faults.take("--period", duration::parse(&arguments.period));
    let threshold = arguments.threshold.parse::<NonZeroU32>();
    let threshold =
        threshold.map_err(|_| format!("{:?} is not a number from 1 on", arguments.threshold));
    let threshold = faults.take("--threshold", threshold);
    let all = || Some((endpoint?, period?, threshold?));
    let (endpoint, period, threshold) = faults.settle(all())?;
    probe::wait(&endpoint, period, threshold, shutdown.cancelled()).await?;
    Ok(())
}
