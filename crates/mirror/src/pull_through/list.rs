//! The lists of a repository, which upstream has: its tags, and the referrers of a manifest.

use http::header::{CONTENT_TYPE, LINK};
use http::{HeaderName, HeaderValue, Response, StatusCode, Uri};
use oci::Origin;

use super::client::Client;
use super::last_answers::is_refusal;
use super::state::{BEGIN_LIMIT, PullThroughStep};
use crate::body::Body;
use crate::refusal::Refusal;
use crate::request::Kind;
use crate::{List, UpstreamError, UpstreamPage};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

impl PullThroughStep {
    /// A page of a list, as upstream has it now; while upstream is unreachable, the referrers of an image as they were
    /// when it was fetched. `uri`: as the client requested it; the next page is requested in the same way. `query`: the
    /// one in it, without `ns`.
    ///
    /// # Errors
    /// Upstream does not send it.
    pub async fn page(
        &self,
        origin: &Origin,
        list: &List,
        (uri, query): (&Uri, &str),
        client: &Client,
    ) -> Result<Response<Body>, Refusal> {
        let repository = client.repository(origin);
        let asked = self.upstream.page(&repository, list, query);
        let page = match self.ask(&repository, BEGIN_LIMIT, asked).await {
            Ok(page) => page,
            Err(error) => {
                let kept = match is_refusal(&error) || client.credentials.is_some() {
                    true => None,
                    false => self.kept_referrers(origin, list).await,
                };
                kept.ok_or_else(|| client.told_of_list(error))?
            }
        };
        Ok(answer(uri, page))
    }
}

impl Client {
    /// An unavailable list is never reported as empty.
    fn told_of_list(&self, error: UpstreamError) -> Refusal {
        match self.told(Refusal::Upstream(Kind::Manifest, error)) {
            refusal @ Refusal::Upstream(_, UpstreamError::NotFound(_)) => refusal,
            refusal @ Refusal::Relayed(..) if refusal.status() != StatusCode::NOT_FOUND => refusal,
            refusal @ Refusal::Relayed(_, UpstreamError::NotFound(_)) => refusal,
            Refusal::Upstream(_, error) | Refusal::Relayed(_, error) => Refusal::NoList(error),
            refusal => refusal,
        }
    }
}

fn answer(uri: &Uri, page: UpstreamPage) -> Response<Body> {
    let mut response = Response::new(Body::bytes(page.bytes));
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(CONTENT_TYPE, page.content_type.unwrap_or(json));
    if let Some(filters) = page.filters_applied {
        headers.insert(FILTERS_APPLIED, filters);
    }
    let next = page.next.and_then(|next| {
        // The client chooses the registry.
        let of_list = next.split('&').filter(|pair| !pair.starts_with("ns="));
        let next = of_list.collect::<Vec<_>>().join("&");
        let mut asked = uri.query().unwrap_or_default().split('&');
        let namespace = asked.find(|pair| pair.starts_with("ns="));
        let namespace = namespace.map_or_else(String::new, |pair| format!("&{pair}"));
        let link = format!("<{}?{next}{namespace}>; rel=\"next\"", uri.path());
        HeaderValue::try_from(link).ok()
    });
    headers.extend(next.map(|next| (LINK, next)));
    response
}
