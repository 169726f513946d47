//! What a client may send as the head of a request.
#![no_main]

use http::{HeaderMap, HeaderValue, Method, Uri, header};
use libfuzzer_sys::fuzz_target;
use mirror::Reader;

fuzz_target!(|input: (String, Vec<u8>, Vec<u8>, Vec<u8>)| {
    let (uri, range, if_range, namespace) = input;
    let Ok(uri) = uri.parse::<Uri>() else { return };
    let mut headers = HeaderMap::new();
    if let Ok(range) = HeaderValue::from_bytes(&range) {
        headers.insert(header::RANGE, range);
    }
    if let Ok(if_range) = HeaderValue::from_bytes(&if_range) {
        headers.insert(header::IF_RANGE, if_range);
    }
    if let Ok(namespace) = HeaderValue::from_bytes(&namespace) {
        headers.insert(mirror::NAMESPACE, namespace);
    }
    let _ = Reader::default().read(&Method::GET, &uri, &headers);
});
