//! Parses paths of the distribution specification ("Endpoints").

use std::borrow::Cow;

use super::RequestError;

/// The page that a path below `/v2/` names, with its last part as the client wrote it.
#[derive(Debug, PartialEq, Eq)]
pub enum Page<'a> {
    /// End-3: `manifests/<reference>`.
    Manifest(&'a str),
    /// End-2: `blobs/<digest>`.
    Blob(&'a str),
    /// End-8: `tags/list`.
    Tags,
    /// End-12: `referrers/<digest>`.
    Referrers(&'a str),
}

/// Decodes the percent-encoding of a path, once: an encoded slash is a slash, as in Go's registries. An incomplete
/// escape is unchanged; no name contains a `%`.
///
/// # Errors
/// The result is not UTF-8.
pub fn decode(path: &str) -> Result<Cow<'_, str>, RequestError> {
    let decoded = percent_encoding::percent_decode_str(path);
    decoded
        .decode_utf8()
        .map_err(|_| RequestError::PathEncoding)
}

/// Splits the path after `/v2/` into the name and the page. No page's last part contains a slash, so the last two
/// slashes decide even if a repository has a part called `blobs`.
pub fn split(path: &str) -> Option<(&str, Page<'_>)> {
    let (rest, last) = path.rsplit_once('/')?;
    let (name, kind) = rest.rsplit_once('/')?;
    let page = match (kind, last) {
        ("manifests", reference) => Page::Manifest(reference),
        ("blobs", digest) => Page::Blob(digest),
        ("tags", "list") => Page::Tags,
        ("referrers", digest) => Page::Referrers(digest),
        _ => return None,
    };
    Some((name, page))
}
