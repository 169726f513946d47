//! `peili cleanup` and `peili cleanup-wait`: commands that run on each node, and once, when Peili is uninstalled from a
//! cluster.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::Context;
use hosts::ConfigPath;
use hosts::probe::{self, Endpoint};
use http::{Response, StatusCode};
use mirror::{Body, ConnectionAddresses, Health, ListenAddress};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cli::{CleanupArgs, CleanupWaitArgs};
use crate::fault::Faults;
use crate::settings::node_name;
use crate::{address, configuration, duration};

/// The interval between attempts to restore the configuration.
const RETRY: Duration = Duration::from_secs(5);

/// Restores containerd's configuration, with repeated attempts, and reports on `/readyz` whether that is done, until
/// `shutdown`.
///
/// # Errors
/// The arguments are at fault, the port is in use, or the work was not done before `shutdown`.
pub async fn run(arguments: &CleanupArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut faults = Faults::default();
    let address = faults.take("--addr", arguments.addr.parse::<ListenAddress>());
    let path = arguments.containerd_registry_config_path.parse();
    let path = faults.take("--containerd-registry-config-path", path);
    let all = || Some((address?, path?));
    let (address, path) = faults.settle(all())?;
    let listener = address::bind("--addr", address)?;
    let limits = mirror::serve::ConnectionLimits::default().http;
    let node = node_name(&arguments.node_name);
    let begun = Health::Waiting(format!("{node}: not put back yet"));
    let (tell, state) = watch::channel(begun);
    let handler = move |request: http::Request<hyper::body::Incoming>, _: ConnectionAddresses| {
        let state = state.borrow().clone();
        async move {
            if request.uri().path() == "/readyz" && request.method() == http::Method::GET {
                return mirror::ready(&state);
            }
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    };
    let serving = mirror::serve::serve(limits, listener, shutdown.clone(), handler);
    let putting_back = async {
        let done = shutdown
            .run_until_cancelled(put_back(path, &node, &tell))
            .await;
        done.context("containerd's registry configuration was not put back")
    };
    let ((), done) = tokio::join!(serving, putting_back);
    done
}

/// Returns when the work is done, and reports the progress until then.
async fn put_back(path: ConfigPath, node: &str, tell: &watch::Sender<Health>) {
    let mut last = String::new();
    loop {
        let path = path.clone();
        let attempt = tokio::task::spawn_blocking(move || hosts::cleanup(&path)).await;
        let error = match attempt
            .map_err(anyhow::Error::from)
            .and_then(|r| r.map_err(Into::into))
        {
            Ok(report) => {
                configuration::log(&report);
                if report.failures.is_empty() {
                    tracing::info!(
                        node,
                        "containerd's configuration is restored; serving /readyz until stopped"
                    );
                    tell.send_replace(Health::Ready);
                    return;
                }
                let failures = report.failures.iter().map(ToString::to_string);
                failures.collect::<Vec<_>>().join("; ")
            }
            Err(error) => format!("{error:#}"),
        };
        // Logged once for each reason.
        if error != last {
            tracing::error!(
                node,
                error,
                "cannot restore containerd's configuration; retrying"
            );
            tell.send_replace(Health::Waiting(format!("{node}: {error}")));
            last = error;
        }
        tokio::time::sleep(RETRY).await;
    }
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
