//! The lists of a repository at a registry.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use mirror::{List, UpstreamError, UpstreamPage, UpstreamRepository};
use oci::MAX_MANIFEST_SIZE;

use crate::encoding;
use crate::fault::protocol;
use crate::link::next_query;
use crate::registries::Registries;

/// The header that names the applied filters (distribution-spec, "Listing Referrers").
const FILTERS_APPLIED: &str = "oci-filters-applied";
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const INDEX: HeaderValue =
    HeaderValue::from_static("application/vnd.oci.image.index.v1+json, application/json;q=0.5");

impl Registries {
    pub(crate) async fn page_of_list(
        &self,
        repository: &UpstreamRepository,
        list: &List,
        query: &str,
    ) -> Result<UpstreamPage, UpstreamError> {
        let origin = &repository.origin;
        let (path, accept) = match list {
            List::Tags => ("tags/list".to_owned(), JSON),
            List::Referrers(digest) => (format!("referrers/{digest}"), INDEX),
        };
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let asked = self.ask(repository, Method::GET, (&path, query), headers);
        let asked = asked.await?;
        // A registry without such lists; clients have an alternative (distribution-spec, "Unavailable Referrers API").
        if matches!(asked.status().as_u16(), 400 | 405 | 406 | 501) {
            return Err(UpstreamError::NotFound(origin.clone()));
        }
        let asked = asked.check(origin)?;
        if asked.status() != StatusCode::OK {
            return Err(protocol(origin, &format!("{} to a GET", asked.status())));
        }
        let next = next_query(&asked.url, asked.headers());
        let header = |name| {
            let value: Option<&HeaderValue> = asked.headers().get(name);
            value.filter(|value| !value.is_empty()).cloned()
        };
        let content_type = header(CONTENT_TYPE.as_str());
        let filters_applied = header(FILTERS_APPLIED);
        let body = asked.granted.answer.response;
        let bytes = self.caller.read(origin, body, MAX_MANIFEST_SIZE).await?;
        Ok(UpstreamPage {
            bytes: encoding::document(bytes, MAX_MANIFEST_SIZE),
            content_type,
            next,
            filters_applied,
        })
    }
}
