//! Requests of a browser for a web page. No client of a registry is a browser, and any page can make the browser access
//! ports that the page's author cannot reach.

use http::HeaderMap;
use http::header::ORIGIN;

/// The relation of the page to this site: `none` if the user entered the address (Fetch Metadata, W3C,
/// "Sec-Fetch-Site").
const SEC_FETCH_SITE: &str = "sec-fetch-site";

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a web page asks (Origin, Sec-Fetch-Site), and this port is for registry clients")]
pub struct AskedByPage;

/// Checks that the request is not of a page of another origin: such a request has an `Origin` with any value (Fetch
/// standard, "Origin header"), or, for GET and HEAD without CORS, a `Sec-Fetch-Site`.
///
/// # Errors
/// It is of a page.
pub fn check(headers: &HeaderMap) -> Result<(), AskedByPage> {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    let of_page = sites.any(|site| site != "none" && site != "same-origin");
    if of_page || headers.contains_key(ORIGIN) {
        return Err(AskedByPage);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn pages_are_refused_and_users_are_not() {
        let with = |name: &'static str, value: &'static str| {
            let name = HeaderName::from_static(name);
            check(&HeaderMap::from_iter([(
                name,
                HeaderValue::from_static(value),
            )]))
        };
        for (name, value) in [
            ("origin", "http://evil.example"),
            ("origin", "http://127.0.0.1:5000"),
            ("origin", "null"),
            ("origin", ""),
            (SEC_FETCH_SITE, "cross-site"),
            (SEC_FETCH_SITE, "same-site"),
        ] {
            assert_eq!(with(name, value), Err(AskedByPage), "{name}: {value}");
        }
        for site in ["none", "same-origin"] {
            assert_eq!(with(SEC_FETCH_SITE, site), Ok(()), "{site}");
        }
        assert_eq!(check(&HeaderMap::new()), Ok(()));
    }
}
