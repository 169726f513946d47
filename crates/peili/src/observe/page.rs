//! The pages, their events and the API: the answer to each path, and the clients that may have it.

use std::sync::Arc;

use ::status::page::{self, CONTENT_SECURITY_POLICY, SCRIPT};
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY as CSP, CONTENT_TYPE, HeaderName, LOCATION,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use mirror::{Body, ConnectionAddresses, check_leads_here};

use super::views::Views;
use super::{content, events};

/// The names of assets change with their content.
const FOR_A_YEAR: &str = "max-age=31536000, immutable";

/// The paths that are answered here, documented in docs/api.md. Assets of the page are not part of the API.
pub const PATHS: [&str; 10] = [
    "/",
    "/events",
    "/cluster",
    "/cluster-events",
    "/content",
    "/api/v1/status",
    "/api/v1/cluster",
    "/api/v1/content",
    "/api/v1/doctor",
    "/api/v1/openapi.json",
];
/// Generated from the types of the answers by a test, with `WRITE_DOCS=1 cargo test -p peili docs`.
const OPENAPI: &str = include_str!("../../../../docs/openapi.json");
const ASSETS: [&str; 1] = ["/script.js"];

/// Which clients may see the page and the API.
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

/// The pages of a mirror.
pub struct Pages {
    pub views: Arc<Views>,
    pub access: PageAccess,
    /// Names of this host besides those of loopback that a browser may use.
    pub own_names: Vec<String>,
}

impl Pages {
    /// Answers a path. `None`: it is none of these.
    pub async fn answer(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        addresses: ConnectionAddresses,
    ) -> Option<Response<Body>> {
        let path = uri.path();
        let is_ours =
            PATHS.contains(&path) || ASSETS.contains(&path) || path.starts_with("/debug/web");
        if !is_ours {
            return None;
        }
        if let Some(refused) = self.refuse(headers, addresses) {
            return Some(refused);
        }
        let html = |text| answer(StatusCode::OK, "text/html; charset=utf-8", text);
        let views = &self.views;
        Some(match path {
            "/" => html(page::page(&views.status().await)),
            "/cluster" => html(page::cluster(&views.cluster_at_once().await)),
            "/content" => html(page::stored(
                &views.content(content::query(uri.query())).await,
            )),
            "/script.js" => asset("text/javascript; charset=utf-8", SCRIPT),
            "/events" => event_stream(events::of_node(views.clone())),
            "/cluster-events" => event_stream(events::of_cluster(views.clone())),
            "/api/v1/status" => json(&views.status_in_full().await),
            "/api/v1/cluster" => json(&views.cluster().await),
            "/api/v1/content" => json(&views.content(content::query(uri.query())).await),
            "/api/v1/doctor" => json(&(views.node_name(), views.facts().await)),
            "/api/v1/openapi.json" => answer(StatusCode::OK, "application/json", OPENAPI),
            // Spegel's path.
            _ => {
                let mut response = answer(StatusCode::TEMPORARY_REDIRECT, "text/plain", "");
                response
                    .headers_mut()
                    .insert(LOCATION, HeaderValue::from_static("/"));
                response
            }
        })
    }

    /// Refuses clients that may not see the page, and web pages of other sites.
    fn refuse(
        &self,
        headers: &HeaderMap,
        addresses: ConnectionAddresses,
    ) -> Option<Response<Body>> {
        let text = |status, text| Some(answer(status, "text/plain; charset=utf-8", text));
        // A client of this host that asks at another address of it has that address itself.
        let [remote, local] = [addresses.remote, addresses.local].map(|a| a.ip().to_canonical());
        let is_on_this_host = remote.is_loopback() || remote == local;
        if self.access == PageAccess::Loopback && !is_on_this_host {
            let why = "the status page is for clients on this host: use kubectl port-forward or an SSH tunnel, or run the \
                       mirror with --page-access anywhere\n";
            return text(StatusCode::FORBIDDEN, why.to_owned());
        }
        let error = check_leads_here(headers, &self.own_names).err()?;
        text(StatusCode::MISDIRECTED_REQUEST, format!("{error}\n"))
    }
}

fn event_stream(events: events::Events) -> Response<Body> {
    let mut response = Response::new(Body::stream(events));
    head(response.headers_mut(), "text/event-stream", "no-store");
    response
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
        (NO_SNIFFING, "nosniff"),
        (REFERRER, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // The policy is ASCII text.
    if let Ok(policy) = HeaderValue::from_str(&CONTENT_SECURITY_POLICY) {
        headers.insert(CSP, policy);
    }
}
