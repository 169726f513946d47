//! The page, its events and the API, for clients on loopback.

use std::sync::Arc;
use std::time::Duration;

use ::status::page::{self, CONTENT_SECURITY_POLICY, SCRIPT, STYLE};
use ::status::{Node, Status};
use bytes::Bytes;
use futures::stream;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY as CSP, CONTENT_TYPE, HeaderName, LOCATION,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use mirror::snapshot::Snapshot;
use mirror::{Body, Ends, Health, Mirror, check_leads_here};
use tokio::time::{Instant, sleep_until, timeout};

use super::{facts, status};

/// Between two events while something is pulled.
const PERIOD: Duration = Duration::from_secs(1);
/// After this time without an event a comment is sent, by which the server learns that the browser is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Assets have a name that changes with them.
const FOR_A_YEAR: &str = "max-age=31536000, immutable";

/// What is answered here, docs/api.md says how. Assets of the page are no API.
const PATHS: [&str; 4] = ["/", "/events", "/api/v1/status", "/api/v1/doctor"];
const ASSETS: [&str; 2] = ["/style.css", "/script.js"];

/// Who may see the page and the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageAccess {
    Loopback,
    Anywhere,
}

impl std::str::FromStr for PageAccess {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "loopback" => Ok(Self::Loopback),
            "anywhere" => Ok(Self::Anywhere),
            _ => Err(format!("{text:?} is neither loopback nor anywhere")),
        }
    }
}

/// What the page shows.
pub struct Pages {
    pub mirror: Arc<Mirror>,
    pub node: String,
    pub access: PageAccess,
    /// The most files that this process may have open.
    pub open_files: u64,
    pub looks_for_peers: bool,
    pub registry_port: u16,
    /// `None`: this node has a store of its own.
    pub containerd: Option<doctor::ContainerdPaths>,
    /// Names of this host besides those of loopback, by which a browser may ask.
    pub own_names: Vec<String>,
}

impl Pages {
    /// Answers a path; `None` if it is none of these.
    pub async fn answer(
        self: &Arc<Self>,
        path: &str,
        headers: &HeaderMap,
        ends: Ends,
    ) -> Option<Response<Body>> {
        let is_ours =
            PATHS.contains(&path) || ASSETS.contains(&path) || path.starts_with("/debug/web");
        if !is_ours {
            return None;
        }
        let is_loopback = ends.remote.ip().to_canonical().is_loopback();
        if self.access == PageAccess::Loopback && !is_loopback {
            let text = "the status page is for clients on this host: use kubectl port-forward or an SSH tunnel, or run the \
                        mirror with --page-access anywhere\n";
            return Some(answer(
                StatusCode::FORBIDDEN,
                "text/plain; charset=utf-8",
                text,
            ));
        }
        if let Err(error) = check_leads_here(headers, &self.own_names) {
            let text = format!("{error}\n");
            return Some(answer(
                StatusCode::MISDIRECTED_REQUEST,
                "text/plain; charset=utf-8",
                text,
            ));
        }
        Some(match path {
            "/" => answer(
                StatusCode::OK,
                "text/html; charset=utf-8",
                page::page(&self.status().await),
            ),
            "/style.css" => asset("text/css; charset=utf-8", STYLE),
            "/script.js" => asset("text/javascript; charset=utf-8", SCRIPT),
            "/events" => self.events(),
            "/api/v1/status" => json(&self.status().await),
            "/api/v1/doctor" => json(&(&self.node, self.facts().await)),
            // Spegel's.
            _ => {
                let mut response = answer(StatusCode::TEMPORARY_REDIRECT, "text/plain", "");
                response
                    .headers_mut()
                    .insert(LOCATION, HeaderValue::from_static("/"));
                response
            }
        })
    }

    async fn status(&self) -> Status {
        self.of(&self.mirror.snapshot().await)
    }

    fn of(&self, snapshot: &Snapshot) -> Status {
        let uptime = snapshot.at_ms.saturating_sub(snapshot.started_ms) / 1000;
        let not_ready = match self.mirror.health() {
            Health::Ready => None,
            Health::Waiting(why) => Some(why),
        };
        let node = Node {
            name: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime,
            not_ready,
        };
        status::of(snapshot, node)
    }

    /// What the mirror tells a doctor of itself.
    async fn facts(&self) -> doctor::Mirror {
        let snapshot = self.mirror.snapshot().await;
        let status = self.of(&snapshot);
        let bootstrap_error = match &status.node.not_ready {
            Some(why) if status.peers.is_empty() => Some(why.clone()),
            _ => None,
        };
        doctor::Mirror {
            version: status.node.version,
            containerd: self.containerd.clone(),
            not_ready: status.node.not_ready,
            registry_port: self.registry_port,
            open_files: self.open_files,
            now: snapshot.at_ms / 1000,
            uptime: status.node.uptime,
            asked_ago: self.mirror.own_client_asked_ago().map(|ago| ago.as_secs()),
            looks_for_peers: self.looks_for_peers,
            bootstrap_error: bootstrap_error.filter(|_| self.looks_for_peers),
            peers: facts::peers(&status.peers, &snapshot.peers),
            registries: facts::registries(&self.mirror.registries()),
        }
    }

    /// Events with the content of the page, for as long as the browser listens.
    fn events(self: &Arc<Self>) -> Response<Body> {
        struct Listening {
            pages: Arc<Pages>,
            changes: tokio::sync::watch::Receiver<u64>,
            last: String,
            next: Instant,
        }
        let listening = Listening {
            pages: self.clone(),
            changes: self.mirror.changes(),
            last: String::new(),
            next: Instant::now(),
        };
        let events = stream::unfold(listening, |mut listening| async move {
            let give_up = Instant::now() + KEEP_ALIVE;
            loop {
                sleep_until(listening.next).await;
                listening.next = Instant::now() + PERIOD;
                listening.changes.mark_unchanged();
                let status = listening.pages.status().await;
                let event = page::event(&status);
                if event != listening.last {
                    let text = format!("data: {event}\n\n");
                    listening.last = event;
                    return Some((Ok(Bytes::from(text)), listening));
                }
                if status.pulls.is_empty() {
                    // Seconds that pass are worth no event.
                    let left = give_up.saturating_duration_since(Instant::now());
                    let _ = timeout(left, listening.changes.changed()).await;
                }
                if Instant::now() >= give_up {
                    return Some((Ok(Bytes::from_static(b":\n\n")), listening));
                }
            }
        });
        let mut response = Response::new(Body::stream(events));
        head(response.headers_mut(), "text/event-stream", "no-store");
        response
    }
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(json) => answer(StatusCode::OK, "application/json", json),
        Err(error) => answer(
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain",
            error.to_string(),
        ),
    }
}

fn answer(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::bytes(body.into()));
    *response.status_mut() = status;
    head(response.headers_mut(), media_type, "no-store");
    response
}

fn asset(media_type: &'static str, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::bytes(Bytes::from_static(text.as_bytes())));
    head(response.headers_mut(), media_type, FOR_A_YEAR);
    response
}

fn head(headers: &mut HeaderMap, media_type: &'static str, cache: &'static str) {
    const NO_SNIFFING: HeaderName = http::header::X_CONTENT_TYPE_OPTIONS;
    const REFERRER: HeaderName = http::header::REFERRER_POLICY;
    for (name, value) in [
        (CONTENT_TYPE, media_type),
        (CACHE_CONTROL, cache),
        (CSP, CONTENT_SECURITY_POLICY),
        (NO_SNIFFING, "nosniff"),
        (REFERRER, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::PATHS;

    #[test]
    fn each_path_is_documented() {
        let page = include_str!("../../../../docs/api.md");
        for path in PATHS {
            assert!(page.contains(&format!("| `{path}` |")), "{path}");
        }
    }
}
