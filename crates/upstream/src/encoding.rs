//! `Content-Encoding` of answers for which `identity` was asked. The label proves nothing: some registries put it on
//! unencoded bytes (moby/moby#17595), others encode despite the request (quay/quay#1310). The bytes and the digest
//! decide.

use std::io::{self, Write as _};
use std::num::NonZeroUsize;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use lru::LruCache;
use oci::{Digest, Hasher};
use parking_lot::Mutex;

/// The first bytes of gzip (RFC 1952, section 2.3.1) with deflate.
const GZIP: &[u8] = &[0x1f, 0x8b, 0x08];
/// The first bytes of zstd (RFC 8878, section 3.1.1).
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// The most bytes decoded at a time. Deflate expands a byte to at most 1032, so this gives at most 4 MiB.
const DECODED_AT_ONCE: usize = 4 * 1024;
/// The most objects whose form is remembered.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// The form of a labelled body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object itself.
    Plain,
    /// The object, encoded with gzip.
    Gzip,
}

impl Form {
    fn other(self) -> Self {
        match self {
            Self::Plain => Self::Gzip,
            Self::Gzip => Self::Plain,
        }
    }
}

/// Whether an answer is labelled as encoded with gzip. All other labels are ignored.
pub(crate) fn is_labelled(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|value| {
        let names = value.as_bytes().split(|b| *b == b',');
        names
            .map(<[u8]>::trim_ascii)
            .any(|name| name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip"))
    })
}

/// A JSON document, decoded if it is gzip: JSON never begins like gzip. Bytes that do not decode to at most `limit`
/// bytes are returned unchanged.
pub(crate) fn document(bytes: Bytes, limit: u64) -> Bytes {
    decoded(&bytes, limit).unwrap_or(bytes)
}

/// Decodes gzip. `None`: the bytes are not gzip, or decode to more than `limit` bytes.
pub(crate) fn decoded(bytes: &[u8], limit: u64) -> Option<Bytes> {
    let mut found = Vec::new();
    let mut decoder = Decoder::new();
    for part in bytes
        .starts_with(GZIP)
        .then_some(bytes)?
        .chunks(DECODED_AT_ONCE)
    {
        found.extend_from_slice(&decoder.push(part).ok()?);
        if found.len() as u64 > limit {
            return None;
        }
    }
    found.extend_from_slice(&decoder.end().ok()?);
    (found.len() as u64 <= limit).then(|| found.into())
}

/// The form of a labelled body, if its beginning shows it; otherwise the likelier one. A layer that is gzip already is
/// gzip twice if it was encoded on the way. Any other gzip is most likely a layer that was never encoded, as layers of
/// plain tar are rare.
pub(crate) fn likely_form(beginning: &[u8]) -> Form {
    if !beginning.starts_with(GZIP) {
        return Form::Plain;
    }
    let inner = Decoder::new().push(&beginning[..beginning.len().min(DECODED_AT_ONCE)]);
    match inner {
        Ok(inner) if inner.starts_with(GZIP) || inner.starts_with(ZSTD) => Form::Gzip,
        _ => Form::Plain,
    }
}

/// The most bytes to which a small labelled body is decoded to detect its form.
const MAX_DECODED: usize = 16 * 1024 * 1024;

/// The form of a whole labelled body of the object with this digest. `None`: neither matches.
pub(crate) fn form_of(body: &[u8], digest: &Digest) -> Option<Form> {
    if digest.verifies(body) {
        return Some(Form::Plain);
    }
    let mut hasher = Hasher::new(digest);
    let mut decoder = Decoder::new();
    let mut decoded = 0;
    for part in body.chunks(DECODED_AT_ONCE) {
        let found = decoder.push(part).ok()?;
        decoded += found.len();
        if decoded > MAX_DECODED {
            return None;
        }
        hasher.update(&found);
    }
    hasher.update(&decoder.end().ok()?);
    (hasher.finish() == *digest).then_some(Form::Gzip)
}

/// Decodes gzip in pieces.
pub(crate) struct Decoder(MultiGzDecoder<Vec<u8>>);

impl Decoder {
    pub(crate) fn new() -> Self {
        Self(MultiGzDecoder::new(Vec::new()))
    }

    /// Decodes a piece of at most [`DECODED_AT_ONCE`] bytes.
    fn push(&mut self, part: &[u8]) -> io::Result<Bytes> {
        self.0.write_all(part)?;
        self.0.flush()?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }

    fn end(&mut self) -> io::Result<Bytes> {
        self.0.try_finish()?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }
}

/// The object in a labelled body, piece by piece. It is compared with its digest, as its form may be a guess.
pub(crate) struct Unlabelled {
    form: Form,
    decoder: Decoder,
    hasher: Hasher,
    digest: Digest,
}

impl Unlabelled {
    pub(crate) fn new(form: Form, digest: &Digest) -> Self {
        Self {
            form,
            decoder: Decoder::new(),
            hasher: Hasher::new(digest),
            digest: digest.clone(),
        }
    }

    /// Takes the next bytes of a body from `input`, and returns the next bytes of the object, possibly none.
    pub(crate) fn next(&mut self, input: &mut Bytes) -> io::Result<Bytes> {
        let bytes = match self.form {
            Form::Plain => std::mem::take(input),
            Form::Gzip => {
                let part = input.split_to(input.len().min(DECODED_AT_ONCE));
                self.decoder.push(&part)?
            }
        };
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    /// The last bytes of the object, and whether its digest matches.
    pub(crate) fn end(mut self) -> io::Result<(Bytes, bool)> {
        let bytes = match self.form {
            Form::Plain => Bytes::new(),
            Form::Gzip => self.decoder.end()?,
        };
        self.hasher.update(&bytes);
        Ok((bytes, self.hasher.finish() == self.digest))
    }
}

/// The forms of the objects for which a guess was wrong.
pub(crate) struct Forms(Mutex<LruCache<Digest, Form>>);

impl Forms {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(MAX_REMEMBERED)))
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Form> {
        self.0.lock().get(digest).copied()
    }

    /// Records that the object did not match in this form.
    pub(crate) fn was_wrong(&self, digest: &Digest, form: Form) {
        self.0.lock().put(digest.clone(), form.other());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;

    use super::*;

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("into memory");
        encoder.finish().expect("into memory")
    }

    #[test]
    fn only_gzip_by_its_two_names_is_a_label() {
        for (value, expected) in [
            ("gzip", true),
            ("X-GZip", true),
            ("identity, gzip", true),
            ("", false),
            ("identity", false),
            ("br", false),
            ("aws-chunked", false),
        ] {
            let value = HeaderValue::from_static(value);
            let headers = HeaderMap::from_iter([(CONTENT_ENCODING, value.clone())]);
            assert_eq!(is_labelled(&headers), expected, "{value:?}");
        }
    }

    #[test]
    fn a_document_is_decoded_where_it_is_encoded() {
        let json = Bytes::from_static(b"{}");
        assert_eq!(document(json.clone(), 10), json);
        assert_eq!(document(gzip(&json).into(), 10), json);
        let bomb = Bytes::from(gzip(&[0; 100_000]));
        assert_eq!(document(bomb.clone(), 10_000), bomb);
        let mut broken = gzip(&json);
        broken.truncate(12);
        assert_eq!(document(broken.clone().into(), 10), broken);
    }

    #[test]
    fn the_form_is_told_by_the_digest_or_else_guessed() {
        let tar = [b'a'; 10_000];
        let (layer, twice) = (gzip(&tar), gzip(&gzip(&tar)));
        let (plain, zipped) = (Digest::sha256(&tar), Digest::sha256(&layer));
        assert_eq!(form_of(&tar, &plain), Some(Form::Plain));
        assert_eq!(form_of(&layer, &zipped), Some(Form::Plain));
        assert_eq!(form_of(&layer, &plain), Some(Form::Gzip));
        assert_eq!(form_of(&twice, &zipped), Some(Form::Gzip));
        assert_eq!(form_of(&twice, &plain), None);
        assert_eq!(likely_form(&tar), Form::Plain);
        assert_eq!(likely_form(&layer), Form::Plain);
        assert_eq!(likely_form(&twice), Form::Gzip);
    }
}
