//! Paths of the distribution specification ("Endpoints"), taken apart.

use std::borrow::Cow;

use super::RequestError;

/// What a path below `/v2/` names, with its last part as the client wrote it.
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

/// Undoes the percent-encoding of a path, once: an encoded slash is a slash, as for Go's registries. An incomplete
/// escape stays as it is; no name has a `%`.
///
/// # Errors
/// What comes of it is not UTF-8.
pub fn decode(path: &str) -> Result<Cow<'_, str>, RequestError> {
    let decoded = percent_encoding::percent_decode_str(path);
    decoded
        .decode_utf8()
        .map_err(|_| RequestError::PathEncoding)
}

/// Takes apart what follows `/v2/`: the name and the page. No page's last part holds a slash, so the last two slashes
/// decide even where a repository has a part called `blobs`.
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
